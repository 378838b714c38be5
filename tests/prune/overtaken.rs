//! A prune that another one overtakes: what the other has deleted is no damage.

use yester::maintain::prune::{PruneOptions, Unused};
use yester::storage::{Class, Name};

use crate::common::faults::{self, Faults};
use crate::common::record::Operation;
use crate::prune::support::{World, noise};

/// Rule 11: what a prune marked at first and what has been forgotten and deleted since is not missing.
#[test]
fn what_was_forgotten_and_deleted_since_the_first_look_is_not_missing() {
    let mut world = World::new();
    world.write("stays", &noise(1, 50_000));
    world.ingest();
    world.write("goes", &noise(2, 100_000));
    let first = world.ingest().snapshot.id;
    world.remove("goes");
    world.write("passes", &noise(3, 100_000));
    let second = world.ingest().snapshot.id;
    world.remove("passes");
    world.forget(first);
    let unlimited = PruneOptions { max_unused: Unused::Unlimited, ..world.prune_options() };
    let operations = {
        let copy = world.copy();
        copy.sweep();
        copy.storage.take().len()
    };
    let mut overtaken = 0;
    // At every operation of a prune somebody forgets the second snapshot, and prunes up to the segments: these go on
    // naming packs that are gone.
    for at in 0..operations {
        let mut world = world.copy();
        let other = world.on(Faults::over(world.storage.inner.clone()));
        other.storage.before(|operation| match operation {
            Operation::Create(Name::Segment(_), _) | Operation::Delete(Name::Segment(_)) => Err(faults::full()),
            _ => Ok(()),
        });
        let (mut left, others) = (at, unlimited.clone());
        let mut other = Some(other);
        world.storage.before(move |_| {
            if left == 0
                && let Some(mut other) = other.take()
            {
                other.forget(second);
                other.try_prune(&others).unwrap();
            }
            left = left.wrapping_sub(1);
            Ok(())
        });
        let result = world.try_prune(&unlimited);
        assert!(result.is_ok(), "overtaken before operation {at}: {result:?}");
        world.storage.before(|_| Ok(()));
        if world.names(Class::Forgotten).len() == 2 {
            world.history.remove(&second);
            overtaken += 1;
        }
        world.verify();
        world.recovers();
    }
    assert!(overtaken > 20, "{overtaken}");
}
