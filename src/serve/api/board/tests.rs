use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn wanted(kind: JobKind) -> NewJob {
    let set = kind.has_set().then(|| "a".to_owned());
    NewJob { kind, host: "h".into(), set, snapshot: None, backup: None }
}

fn small(directory: &Path, most: (usize, usize)) -> Board {
    Board { most, ..Board::open(directory, Duration::from_secs(3600)).unwrap() }
}

#[test]
fn who_is_heard_of_is_not_lost_whatever_the_clock_says() {
    let wish = Wish { job: wanted(JobKind::Check), token: "t".into(), at: 1 };
    let claimed = JobMark::Claimed { agent: "h".into(), token: "t".into(), claim: "c".into() };
    let events = vec![JobEvent { at: 1, mark: claimed }, JobEvent { at: i64::MAX, mark: JobMark::Lost }];
    let mut entry = BoardEntry::new(wish, events);
    assert!(entry.is_lost() && entry.status() == JobStatus::Failed);
    entry.hear();
    assert!(!entry.is_lost() && entry.status() == JobStatus::Running);
}

#[test]
fn the_oldest_that_are_over_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let board = small(dir.path(), (3, 4));
    let ask = |token: &str| board.create(wanted(JobKind::Check), None, token).map(|(job, _)| job.id);
    let code = |result: Result<String, Refusal>| result.map_err(|refusal| refusal.error);
    let one: Vec<String> = (0..3).map(|_| ask("one").unwrap()).collect();
    assert_eq!(code(ask("one")), Err(Code::TooMany));
    let two = ask("two").unwrap();
    assert_eq!(code(ask("two")), Err(Code::Quota), "none is over");
    board.cancel(&one[1], "one").unwrap();
    board.cancel(&two, "two").unwrap();
    ask("one").unwrap();
    assert!(board.job(&one[1], &|_| true).is_err() && board.job(&two, &|_| true).is_ok(), "a token's own go first");
    // Of all it is the oldest, whosever it is.
    board.cancel(&one[2], "one").unwrap();
    ask("three").unwrap();
    assert!(board.job(&two, &|_| true).is_ok() && board.job(&one[2], &|_| true).is_err());
    let counts: Vec<usize> = board.jobs.lock().counts.values().copied().collect();
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn the_disk_is_asked_only_about_what_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let board = small(dir.path(), (100, 100));
    for n in 0..5_u8 {
        let id = board.create(wanted(JobKind::Ingest), None, "t").unwrap().0.id;
        if n < 4 {
            let claim = format!("{n:032x}");
            let request = ClaimRequest { host: "h".into(), claim: claim.clone(), kinds: vec![JobKind::Ingest], wait: 0 };
            assert_eq!(board.claim(&request, "t").unwrap().unwrap().id, id);
            let snapshot = Some(SnapshotId([n; SnapshotId::LEN]).to_string());
            let (outcome, message) = (JobOutcome::Done, None);
            let end = EndReport {
                claim,
                outcome,
                message,
                snapshot,
                size: None,
                added: None,
                exit_code: Some(0),
                next_steps: Vec::new(),
            };
            board.end(&id, end, "t").unwrap();
        }
    }
    let asked = std::cell::Cell::new(0);
    let list = |state, limit| {
        let is_there = |id: SnapshotId| {
            asked.set(asked.get() + 1);
            id.0[0] != 2
        };
        let page = board.list(&JobFilter { state, limit, ..JobFilter::default() }, &is_there).unwrap();
        (page.jobs.len(), page.next.is_some(), asked.replace(0))
    };
    assert_eq!(list(Some(JobStatus::Queued), 10), (1, false, 0));
    assert_eq!(list(None, 1), (1, true, 0));
    assert_eq!(list(Some(JobStatus::Done), 1), (1, true, 1));
    assert_eq!(list(Some(JobStatus::Done), 10), (3, false, 4));
    assert_eq!(list(Some(JobStatus::Deleted), 10), (1, false, 4));
}

#[test]
fn what_is_left_of_a_removed_job_is_nothing_of_the_next_with_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let board = small(dir.path(), (2, 10));
    let create = |board: &Board| board.create(wanted(JobKind::Check), Some("key"), "t").unwrap().0;
    let id = create(&board).id;
    board.cancel(&id, "t").unwrap();
    // The server is killed between the two steps of a removal.
    std::fs::remove_file(dir.path().join(".jobs").join(&id)).unwrap();
    let board = small(dir.path(), (2, 10));
    assert!(!dir.path().join(format!(".jobs/{id}.1")).exists());
    let again = create(&board);
    assert_eq!((again.id, again.state), (id.clone(), JobStatus::Queued));
    assert!(board.cancel(&id, "t").unwrap().state == JobStatus::Cancelled);
    // And one that is removed whole.
    (0..2).for_each(|_| drop(board.create(wanted(JobKind::Check), None, "t").unwrap()));
    assert!(board.job(&id, &|_| true).is_err());
    let left = std::fs::read_dir(dir.path().join(".jobs")).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&id)));
}

#[test]
fn who_waits_for_the_turn_has_no_thread_and_who_goes_away_leaves_it_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let board = Arc::new(small(dir.path(), (10, 10)));
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).build().unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (wait, working) = (Arc::new(Mutex::new(wait)), Arc::new(AtomicUsize::new(0)));
    let ask = || {
        let (board, wait, working) = (board.clone(), wait.clone(), working.clone());
        async move {
            let work = move |_: &Board| {
                assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                let _ = wait.lock().recv();
                working.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            board.with(work).await
        }
    };
    runtime.block_on(async {
        let first = tokio::spawn(ask());
        while working.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..8).map(|_| tokio::spawn(ask())).collect();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        // The second thread is free for others, however often it is wanted.
        for _ in 0..100 {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        assert_eq!(working.load(Ordering::SeqCst), 1);
        drop(go);
        for other in others {
            other.await.unwrap().unwrap();
        }
    });
}
