//! The processor time of both sides, from `/proc`.

use std::{fs, ops::Sub, process::Command};

use backstory::BoxError;

/// Seconds of processor time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Of this program.
    pub client: f64,
    /// Of the server with all its processes, the ended ones included.
    pub server: f64,
    /// Of the whole machine, time taken by other guests of its host included.
    pub machine: f64,
}

impl Cpu {
    /// Of everybody else: what disturbs a measurement.
    pub fn others(self) -> f64 {
        (self.machine - self.client - self.server).max(0.0)
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            client: self.client - earlier.client,
            server: self.server - earlier.server,
            machine: self.machine - earlier.machine,
        }
    }
}

/// Reads the clocks of the two sides.
pub struct Meter {
    server: u32,
    ticks: f64,
}

impl Meter {
    /// For this program and the server with this process id.
    pub fn new(server: u32) -> Result<Self, BoxError> {
        let output = Command::new("getconf").arg("CLK_TCK").output()?;
        let ticks = String::from_utf8(output.stdout)?.trim().parse()?;
        Ok(Self { server, ticks })
    }

    /// What was used until now.
    pub fn read(&self) -> Result<Cpu, BoxError> {
        let me = Times::of("self").ok_or("/proc/self/stat cannot be read")?;
        let server = Times::of(&self.server.to_string()).ok_or("the server does not run")?;
        let mut ticks = server.own + server.ended;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let process = name.to_str().filter(|name| name.parse::<u32>().is_ok());
            // A process may have ended since the folder was listed.
            let times = process.and_then(Times::of);
            ticks += times
                .filter(|times| times.parent == self.server)
                .map_or(0, |times| times.own);
        }
        Ok(Cpu {
            client: me.own as f64 / self.ticks,
            server: ticks as f64 / self.ticks,
            machine: machine()? as f64 / self.ticks,
        })
    }
}

fn machine() -> Result<u64, BoxError> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    match fields.as_slice() {
        [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] => {
            Ok(user + nice + system + irq + softirq + steal)
        }
        _ => Err("/proc/stat cannot be read".into()),
    }
}

struct Times {
    parent: u32,
    own: u64,
    ended: u64,
}

impl Times {
    fn of(process: &str) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            own: number(11)? + number(12)?,
            ended: number(13)? + number(14)?,
        })
    }
}
