//! `backstory`: checks a store on Postgres, prints its statements, builds its indexes, tells its
//! projections what to do.

mod args;
mod projections;
mod run;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

/// It could not be done; 1 is for findings.
const FAILED: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(help) if !help.use_stderr() => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
        Err(mistake) => return failed(&mistake.render().to_string()),
    };
    match run::run(args.command, &mut io::stdout().lock()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&format!("error: {error}\n")),
    }
}

/// It fails when nobody listens, which is fine.
fn failed(text: &str) -> ExitCode {
    let _ = io::stderr().write_all(without_passwords(text).as_bytes());
    ExitCode::from(FAILED)
}

/// What a user typed may be quoted in an error, also a URL at a wrong place.
fn without_passwords(text: &str) -> String {
    let mut clean = String::new();
    for (number, piece) in text.split("://").enumerate() {
        if number == 0 {
            clean += piece;
            continue;
        }
        clean += "://";
        let end = piece
            .find(|letter: char| letter.is_whitespace())
            .unwrap_or(piece.len());
        // A password may hold any of the letters that end other parts.
        let (url, rest) = piece.split_at(end);
        let (login, place) = url.split_at(url.rfind('@').unwrap_or(0));
        match login.split_once(':') {
            Some((user, _)) => clean = clean + user + ":***",
            None => clean += login,
        }
        match place.split_once("password=") {
            Some((before, _)) => clean = clean + before + "password=***",
            None => clean += place,
        }
        clean += rest;
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::without_passwords;

    #[test]
    fn passwords_are_taken_out_of_urls() {
        for (text, clean) in [
            ("nothing", "nothing"),
            ("'postgres://h/d' and", "'postgres://h/d' and"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            (
                "x postgres://h/d?password=p y",
                "x postgres://h/d?password=*** y",
            ),
            ("a 'postgres://u:p@h/d' b", "a 'postgres://u:***@h/d' b"),
            (
                "postgres://u:p:@/'x@h/d postgres://u:q@h",
                "postgres://u:***@h/d postgres://u:***@h",
            ),
        ] {
            assert_eq!(without_passwords(text), clean);
        }
    }
}
