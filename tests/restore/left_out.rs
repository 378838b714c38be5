//! `--delete` where the snapshot says that it does not know everything.

use std::fs;

use yester::model::{LeftOut, Rule};
use yester::restore::RestoreOptions;
use yester::restore::spare::DeleteAlso;

use crate::common::build::Spec;
use crate::restore::support::World;

fn with(left_out: LeftOut) -> Spec {
    let mut dir = Spec::dir("d", vec![Spec::file("known", "k"), Spec::dir("sub", vec![])]);
    dir.node.left_out = left_out;
    Spec::dir("", vec![dir])
}

/// Which of what the snapshot does not have is left: in the directory, in one in it, beside it.
fn left(world: &World, also: DeleteAlso) -> [bool; 3] {
    let names = ["d/more", "d/sub/more", "more"];
    for name in names {
        fs::create_dir_all(world.path(name).parent().unwrap()).unwrap();
        fs::write(world.path(name), "x").unwrap();
    }
    let report = world.restore_all(&RestoreOptions { delete: true, delete_also: also, ..RestoreOptions::default() });
    let left = names.map(|name| world.path(name).exists());
    assert_eq!(report.spared, left.iter().filter(|left| **left).count() as u64, "{report:?}");
    left
}

#[test]
fn each_reason_keeps_what_it_is_about() {
    let none = DeleteAlso::default();
    let excluded = DeleteAlso { excluded: true, ..none };
    let unread = DeleteAlso { unread: true, ..none };
    let mounted = DeleteAlso { mounted: true, ..none };
    for (bits, also) in [
        (LeftOut::UNREAD, unread),
        (LeftOut::LOST, unread),
        (LeftOut::MOUNTED, mounted),
        (LeftOut::MARKED, excluded),
        // One that is not known yet.
        (LeftOut(1 << 20), unread),
    ] {
        let world = World::new(&with(bits));
        assert_eq!(left(&world, none), [true, false, false], "{bits:?}");
        for wrong in [excluded, unread, mounted].into_iter().filter(|other| *other != also) {
            assert_eq!(left(&world, wrong), [true, false, false], "{bits:?} {wrong:?}");
        }
        assert_eq!(left(&world, also), [false; 3], "{bits:?}");
    }
    // Where the rules are known, they say what stays.
    assert_eq!(left(&World::new(&with(LeftOut::EXCLUDED)), none), [false; 3]);
}

#[test]
fn rules_that_cannot_be_followed_keep_everything_where_something_was_excluded() {
    for rule in
        [Rule::new(Rule::MORE, ""), Rule::new(99, "x"), Rule::new(Rule::LARGER_THAN, "many"), Rule::new(Rule::PATTERN, "[")]
    {
        let mut world = World::new(&with(LeftOut::EXCLUDED));
        let mut snapshot = (*world.snapshot).clone();
        snapshot.rules = vec![rule.clone()];
        world.snapshot = snapshot.into();
        assert_eq!(left(&world, DeleteAlso::default()), [true, false, false], "{rule:?}");
        assert_eq!(left(&world, DeleteAlso { excluded: true, ..DeleteAlso::default() }), [false; 3], "{rule:?}");
    }
}
