use super::*;

const PIECE: u64 = 512 << 10;
const READ: u64 = 128 << 10;

/// Readers of a tree of files of 256 KiB, and what they gave reason to do.
struct Played {
    streams: ReaderStreams,
    now: Instant,
    /// Pieces that were taken, and whether more are.
    pieces: Vec<Range<u64>>,
    takes: bool,
}

impl Played {
    fn new() -> Self {
        let streams = ReaderStreams::new(ReadAheadBudget::new(48 << 20), PIECE);
        Played { streams, now: Instant::now(), pieces: Vec::new(), takes: true }
    }

    fn read(&mut self, position: u64, offset: u64) -> ReadPlan {
        self.read_of(StreamRead { tree: 1, gives: false, is_image: false, position, file: Some(256 << 10), offset, size: READ })
    }

    /// Of a file of a gigabyte that the kernel can be given.
    fn read_long(&mut self, offset: u64) -> ReadPlan {
        self.read_of(StreamRead { tree: 1, gives: true, is_image: false, position: 9, file: Some(1 << 30), offset, size: READ })
    }

    fn read_of(&mut self, read: StreamRead) -> ReadPlan {
        let (pieces, takes) = (&mut self.pieces, self.takes);
        let mut take = |_, range| {
            pieces.extend(takes.then_some(range));
            takes
        };
        self.streams.read(&read, self.now, &mut take)
    }

    /// Walks as far as there is room, over files of 256 KiB; from where and how far.
    fn walk(&mut self, number: u64) -> (TreePlace, TreePlace) {
        let mut walk = self.streams.walk(number, self.now).unwrap();
        let from = walk.at;
        while let Some((_, offset)) = walk.next() {
            for start in (offset..256 << 10).step_by(READ as usize) {
                walk.pass(start, READ);
                if !walk.take(READ) {
                    break;
                }
            }
            walk.leave(256 << 10);
        }
        let to = walk.at;
        self.streams.walked(number, Some(walk));
        (from, to)
    }
}

#[test]
fn within_a_file_the_window_doubles_and_ends_with_the_file() {
    let mut played = Played::new();
    assert_eq!(played.read(3, 0), ReadPlan::default(), "one read is no order");
    let plan = played.read(3, READ);
    assert_eq!(plan, ReadPlan { small_files: false, gives: false, walk: Some(0) });
    assert_eq!(played.walk(0), ((3, 2 * READ), (4, 0)), "who was never in another file is not run ahead of into one");
}

#[test]
fn from_file_to_file_a_window_of_the_tree_lies_ahead() {
    let mut played = Played::new();
    played.read(3, 0);
    assert_eq!(played.read(4, 0).walk, Some(0));
    // The window of the first hit is a megabyte: from the middle of file 4 on.
    assert_eq!(played.walk(0), ((4, READ), (8, READ)));
    assert_eq!(played.read(4, READ).walk, Some(0), "the window has doubled");
    assert_eq!(played.walk(0).1, (13, 0));
    assert_eq!(played.read(5, 0), ReadPlan { small_files: true, gives: false, walk: Some(0) }, "now small files are given");
    played.walk(0);
    assert_eq!(played.read(6, 0).walk, Some(0));
    assert_eq!(played.read(7, 0).walk, None, "one walk at a time");
    // More than half of the window lies ahead.
    played.walk(0);
    let before = played.streams.streams[0].lies_ahead();
    assert!(before <= 12 << 20 && before > 11 << 20, "the budget: {before}");
    assert_eq!(played.read(8, 0).walk, None);
    played.streams.walked(0, None);
    assert!(played.streams.streams[0].lies_ahead() < before, "what was read lies ahead no more");
}

#[test]
fn who_jumps_has_nothing_ahead() {
    let mut played = Played::new();
    let at = |offset| StreamRead { tree: 1, gives: false, is_image: false, position: 3, file: Some(1 << 30), offset, size: 4096 };
    for offset in [500 << 20, 9 << 20, 700 << 20, 20 << 20, 90 << 20] {
        assert_eq!(played.read_of(at(offset)), ReadPlan::default(), "{offset}");
    }
    assert_eq!(played.streams.streams.len(), 1, "random reads of a file are one stream");
    // Slack: the kernel reads ahead out of order.
    assert!(played.read_of(at((90 << 20) + SLACK)).walk.is_some());
    assert!(played.read_of(at((90 << 20) + 8192)).walk.is_none(), "it walks already");
    assert_eq!(played.streams.streams[0].hits, 2);
}

#[test]
fn readers_are_told_apart_by_tree_place_and_kernel() {
    let mut played = Played::new();
    played.read(1000, 0);
    played.read(1000, READ);
    let read =
        StreamRead { tree: 1, gives: false, is_image: false, position: 1000, file: Some(1 << 20), offset: 2 * READ, size: READ };
    played.read_of(StreamRead { tree: 2, ..read });
    played.read_of(StreamRead { gives: true, ..read });
    played.read(999, 0);
    played.read(1000 + SKIP + 1, 0);
    assert_eq!(played.streams.streams.len(), 5);
    assert_eq!(played.streams.streams[0].hits, 1);
    // There are as many as are followed; the one that was quiet for longest goes.
    for n in 0..2 * STREAMS as u64 {
        played.now += Duration::from_millis(1);
        played.read(10_000 + n * 1000, 0);
    }
    assert_eq!(played.streams.streams.len(), STREAMS);
    assert!(played.streams.get(0).is_none());
    assert_eq!(played.streams.walk(0, played.now).map(|walk| walk.at), None);
}

#[test]
fn active_readers_share_the_budget_and_quiet_ones_do_not() {
    let mut played = Played::new();
    for reader in 0..3 {
        played.read(reader * 10_000, 0);
        played.read(reader * 10_000 + 1, 0);
    }
    assert_eq!(played.streams.active(played.now), 3);
    played.now += QUIET;
    played.read(2, 0);
    assert_eq!(played.streams.active(played.now), 1);
    assert!(!played.streams.goes_across(1, played.now), "after two reads in order nobody expects a listing");
}

#[test]
fn a_listing_is_of_a_reader_who_goes_across_just_now() {
    let mut played = Played::new();
    for position in 0..4 {
        played.read_of(StreamRead { tree: 1, gives: true, is_image: false, position, file: Some(READ), offset: 0, size: READ });
    }
    assert!(played.streams.goes_across(1, played.now) && !played.streams.goes_across(2, played.now));
    assert!(!played.streams.goes_across(1, played.now + AWHILE));
}

#[test]
fn a_long_file_is_given_piece_by_piece_in_the_place_of_walks() {
    let mut played = Played::new();
    played.read_long(0);
    assert_eq!(played.read_long(READ).walk, Some(0));
    played.streams.walked(0, None);
    assert_eq!(played.read_long(2 * READ).walk, Some(0));
    played.streams.walked(0, None);
    assert_eq!(played.read_long(3 * READ), ReadPlan { gives: true, ..ReadPlan::default() });
    // A margin behind the reader: what the kernel reads ahead itself.
    let begin = 4 * READ + (256 << 10);
    assert_eq!(played.pieces, [begin..begin + PIECE, begin + PIECE..begin + 2 * PIECE]);
    assert!(played.streams.has_passed(0, 9, 4 * READ) && !played.streams.has_passed(0, 9, 4 * READ + 1));
    assert!(!played.streams.has_passed(0, 8, 0) && !played.streams.has_passed(1, 9, 0));
    // The reader found its pages, and asks for the page that was left out.
    played.read_long(begin + 2 * PIECE);
    assert!(played.pieces.len() > 2, "a window on: {:?}", played.pieces);
}

#[test]
fn refused_pieces_are_left_to_the_reader() {
    let mut played = Played::new();
    played.takes = false;
    for n in 0..3 {
        played.read_long(n * READ);
    }
    played.streams.walked(0, None);
    assert_eq!(played.read_long(3 * READ).walk, Some(0), "it is run ahead of as usual");
    played.takes = true;
    assert_eq!(played.read_long(4 * READ).walk, None);
    assert_eq!(played.pieces[0].start, 5 * READ + (256 << 10), "given as soon as there is room");
}

#[test]
fn files_in_their_nodes_are_not_run_ahead_of() {
    let mut played = Played::new();
    let read = |position| StreamRead { tree: 1, gives: true, is_image: false, position, file: None, offset: 0, size: 50 };
    let plans: Vec<ReadPlan> = (0..4).map(|position| played.read_of(read(position))).collect();
    assert!(plans.iter().all(|plan| plan.walk.is_none()) && plans[3].small_files, "{plans:?}");
}

#[test]
fn a_walk_of_a_reader_who_has_jumped_counts_for_nothing() {
    let mut played = Played::new();
    played.read(3, 0);
    played.read(4, 0);
    let mut walk = played.streams.walk(0, played.now).unwrap();
    walk.pass(READ, READ);
    assert!(walk.take(READ));
    played.read(5, READ);
    played.streams.walked(0, Some(walk));
    assert_eq!((played.streams.streams[0].cursor, played.streams.streams[0].lies_ahead()), ((5, 2 * READ), 0));
}

/// Half-megabyte reads of an image: several readers at once, and who jumps for ever.
#[test]
fn readers_of_an_image_are_told_apart() {
    let mut played = Played::new();
    let at = |offset| StreamRead { tree: 7, gives: true, is_image: true, position: 0, file: Some(8 << 30), offset, size: PIECE };
    // Three go through it in turn, far from each other.
    for step in 0..4 {
        for reader in 0..3_u64 {
            let plan = played.read_of(at((reader << 30) + step * PIECE));
            assert_eq!((plan.gives, plan.walk, plan.small_files), (step == 3, None, false), "reader {reader}, read {step}");
        }
    }
    let begins: Vec<u64> = played.pieces.iter().map(|piece| piece.start >> 30).collect();
    assert_eq!(begins, [0, 0, 1, 1, 2, 2], "a window of two pieces for each");
    // Who jumps is given nothing, and takes the place of nobody.
    for jump in 0..40_u64 {
        assert_eq!(played.read_of(at((4 << 30) + jump * 13 % 40 * (8 << 20))), ReadPlan::default());
    }
    assert!((0..3).all(|reader| played.read_of(at((reader << 30) + 4 * PIECE)).gives));
}
