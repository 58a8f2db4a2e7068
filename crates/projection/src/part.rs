//! Parts of a projection, which several processes run at once: each has the events of its own keys,
//! a progress of its own and a lease of its own.

use backstory_event::Position;

use crate::{Progress, Step, Target};

/// A part of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Which one, from 0.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

impl Part {
    /// The only part.
    pub(crate) const WHOLE: Self = Self { index: 0, count: 1 };

    /// The name of the part's progress: that of the projection if it is the only one.
    pub fn name(self, projection: &str) -> String {
        match self {
            Self::WHOLE => projection.to_owned(),
            Self { index, count } => format!("{projection}~{index}of{count}"),
        }
    }

    /// The projection that owns a progress, and the part.
    pub fn split(name: &str) -> (&str, Self) {
        let part = |name: &str| {
            let (index, count) = name.split_once("of")?;
            Some(Self {
                index: index.parse().ok()?,
                count: count.parse().ok()?,
            })
        };
        let found = name.rsplit_once('~');
        let found = found.and_then(|(owner, rest)| Some((owner, part(rest)?)));
        found.unwrap_or((name, Self::WHOLE))
    }

    /// True when events of this key are its own. Which part a key has is kept by stores: it must
    /// never change.
    pub fn owns(self, key: &str) -> bool {
        // FNV-1a, the same on every machine; then mixed, for it is weak where keys are alike.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = hash ^ (hash >> 33);
        hash % u64::from(self.count.max(1)) == u64::from(self.index)
    }
}

/// How many more parts of a projection a process should lead, or how many fewer: all processes lead
/// as many, but for one.
pub fn room(parts: usize, processes: usize, led: usize) -> isize {
    let share = parts.div_ceil(processes.max(1));
    share.cast_signed() - led.cast_signed()
}

/// The projection that owns a progress: read model and letters are kept under its name.
pub fn owner(progress: &str) -> &str {
    Part::split(progress).0
}

impl Step {
    /// The progress of another part after this step, if it changes that one too: a reset, or a rewind
    /// to before where it stands.
    pub fn of_sibling(&self, other: &Progress) -> Option<Progress> {
        let own = &self.from.projection;
        if other.projection == *own || owner(&other.projection) != owner(own) {
            return None;
        }
        let checkpoint = match self.to {
            Target::Advance(_) | Target::Amend => return None,
            Target::Reset => Default::default(),
            Target::Rewind(to) if to.position < other.checkpoint.position => to,
            Target::Rewind(_) => other.checkpoint,
        };
        Some(Progress {
            projection: other.projection.clone(),
            checkpoint,
            epoch: other.epoch + 1,
        })
    }

    /// True when it may change other parts.
    pub fn concerns_siblings(&self) -> bool {
        let whole = Part::split(&self.from.projection).1 == Part::WHOLE;
        !whole && matches!(self.to, Target::Reset | Target::Rewind(_))
    }

    /// Behind here its projection has no letters after it, if that changes.
    pub fn drops_letters_behind(&self) -> Option<Position> {
        match self.to {
            Target::Advance(_) | Target::Amend => None,
            Target::Reset => Some(Position::START),
            Target::Rewind(to) => Some(to.position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_part() {
        let part = Part {
            index: 3,
            count: 12,
        };
        assert_eq!(Part::split(&part.name("orders")), ("orders", part));
        assert_eq!(Part::WHOLE.name("orders"), "orders");
        for whole in ["orders", "orders~next", "orders~3of", "orders~previous"] {
            assert_eq!(Part::split(whole), (whole, Part::WHOLE));
        }
    }

    #[test]
    fn each_key_has_one_part_and_each_part_has_keys() {
        for count in [1, 2, 3, 8, 64] {
            let mut keys = vec![0; count as usize];
            for key in 0..10_000 {
                let key = format!("todo/{key}");
                let owners = (0..count).filter(|index| {
                    let index = *index;
                    Part { index, count }.owns(&key)
                });
                let owners: Vec<_> = owners.collect();
                assert_eq!(owners.len(), 1);
                keys[owners[0] as usize] += 1;
            }
            let even = 10_000 / count;
            let fair = |keys: &u32| *keys > even / 2 && *keys < even * 2;
            assert!(keys.iter().all(fair), "{keys:?}");
        }
        // What stores have kept.
        let of = |key| {
            (0..8).find(|index| {
                Part {
                    index: *index,
                    count: 8,
                }
                .owns(key)
            })
        };
        assert_eq!(["a", "todo/1", "ä"].map(of), [Some(5), Some(3), Some(7)]);
    }
}
