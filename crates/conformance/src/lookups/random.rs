//! Random changes: what the lookups say is what the events say.

use backstory_event::{Conflict, StreamState};

use super::domain::{
    UserEvent, by_events, found, joined, moved, quit, registered, save, stream, user, users,
};
use crate::{
    Fixture,
    kit::{Dice, within},
};

pub async fn random_changes_equal_the_events<F: Fixture>(fixture: &F) {
    const USERS: usize = 6;
    let store = fixture.store();
    let other = within(fixture.elsewhere()).await;
    let handles = [users(&store), users(&other)];
    let mut dice = Dice::new(11);
    let (mut taken, mut stored) = (0, 0);
    for step in 0..300 {
        let number = u64::try_from(1 + dice.below(USERS)).unwrap();
        let users = &handles[dice.below(2)];
        let info = users.info(&user(number)).await.unwrap();
        match info.map(|info| info.state) {
            Some(StreamState::Erased) => drop(users.revive(&user(number)).await.unwrap()),
            Some(StreamState::Deleted) if dice.once_in(2) => {
                users.restore(&user(number)).await.unwrap();
            }
            Some(StreamState::Deleted) => drop(users.erase(&user(number)).await.unwrap()),
            Some(StreamState::Live) if dice.once_in(15) => {
                users.delete(&user(number)).await.unwrap();
            }
            _ => {
                let before = by_events(&store).await.0;
                let events: Vec<_> = (0..=dice.below(3)).map(|_| any(&mut dice)).collect();
                match save(users, number, events).await {
                    Ok(_) => stored += 1,
                    Err(error) => {
                        let Some(Conflict::Claim { value, owner, .. }) = error.conflict() else {
                            panic!("step {step}: {error}");
                        };
                        let holder = owner.key().parse().unwrap();
                        assert!(before.contains(&(value.clone(), holder)), "step {step}");
                        assert_ne!(*owner, stream(number));
                        taken += 1;
                    }
                }
            }
        }
        assert_eq!(found(&store).await, by_events(&store).await, "step {step}");
    }
    assert!(taken > 20 && stored > 100, "{taken} taken, {stored} stored");
}

fn any(dice: &mut Dice) -> UserEvent {
    let email = format!("{}@x.org", dice.below(8));
    let group = format!("group {}", dice.below(4));
    match dice.below(12) {
        0 => UserEvent::Left,
        1 => UserEvent::Renamed,
        2 | 3 => registered(&email),
        4..7 => moved(&email),
        7..10 => joined(&group),
        _ => quit(&group),
    }
}
