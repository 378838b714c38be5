//! Reading at the edges of files, and in ways that go around or ahead of the kernel's memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;
use yester::vfs::MountOptions;

use crate::common::mounted::Mounted;
use crate::common::tiny::{About, CHUNK, Piece, Tiny, dir, file, noise, sparse};

/// The largest offset that there is.
const LAST: u64 = i64::MAX as u64;

#[test]
fn reads_at_every_edge() {
    let tiny = Tiny::new();
    // Nothing; in the node; one chunk; pages and chunks less one, whole, and one more; a recipe of its own.
    let sizes = [0, 1, 64, 65, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 131_071, 131_072, 131_073, 1_000_000];
    tiny.commit(&dir(sizes.map(|size| (format!("{size}"), file(noise(size as u64, size))))), About::at(1));
    let mounted = Mounted::latest(&tiny);
    for size in sizes {
        let whole = noise(size as u64, size);
        for direct in [0, libc_o_direct()] {
            let open = File::options().read(true).custom_flags(direct).open(mounted.path(&size.to_string())).unwrap();
            let end = size as u64;
            let edges = [0, 1, 4095, 4096, end / 2, end.saturating_sub(1), end, end + 1, end + 4096, 1 << 40, LAST - 1_000_000];
            for at in edges {
                for len in [0, 1, 2, 511, 4096, 200_000] {
                    let mut buffer = vec![0xee; len];
                    let read = open.read_at(&mut buffer, at).unwrap();
                    let from = size.min(usize::try_from(at).unwrap());
                    // A read may give less than all, but not nothing.
                    let most = (size - from).min(len);
                    assert!(read <= most && (read > 0 || most == 0), "{read} of {len} bytes at {at} of {size}");
                    assert!(buffer[..read] == whole[from..from + read] && buffer[read..].iter().all(|b| *b == 0xee));
                }
            }
            // The last byte that there could be, and one range that ends behind it.
            assert_eq!(open.read_at(&mut [0], LAST - 1).unwrap(), 0);
            assert_eq!(open.read_at(&mut [], LAST).unwrap(), 0);
            let beyond = open.read_at(&mut [0; 10], u64::MAX);
            assert_eq!(beyond.map_err(|e| e.raw_os_error()), Err(Some(Errno::INVAL.raw_os_error())));
        }
    }
}

/// Past the kernel's memory.
fn libc_o_direct() -> i32 {
    rustix::fs::OFlags::DIRECT.bits() as i32
}

#[test]
fn seeks_at_every_edge() {
    let tiny = Tiny::new();
    let pieces =
        vec![Piece::Hole(100_000), Piece::Data(noise(1, 50_000)), Piece::Hole(1 << 40), Piece::Data(noise(2, 1)), Piece::Hole(7)];
    tiny.commit(&dir([("sparse", sparse(pieces)), ("hole", sparse(vec![Piece::Hole(5)]))]), About::at(1));
    let mounted = Mounted::latest(&tiny);
    let open = File::open(mounted.path("sparse")).unwrap();
    let last = 150_000 + (1 << 40);
    let end = last + 8;
    let enxio = Err(Errno::NXIO);
    for (from, data, hole) in [
        (0, Ok(100_000), Ok(0)),
        (99_999, Ok(100_000), Ok(99_999)),
        (100_000, Ok(100_000), Ok(150_000)),
        (149_999, Ok(149_999), Ok(150_000)),
        (150_000, Ok(last), Ok(150_000)),
        (last, Ok(last), Ok(last + 1)),
        (last + 1, enxio, Ok(last + 1)),
        (end - 1, enxio, Ok(end - 1)),
        (end, enxio, enxio),
        (end + 1, enxio, enxio),
        (LAST, enxio, enxio),
    ] {
        assert_eq!(seek(&open, SeekFrom::Data(from)), data, "data from {from}");
        assert_eq!(seek(&open, SeekFrom::Hole(from)), hole, "a hole from {from}");
    }
    assert_eq!(seek(&open, SeekFrom::Data(u64::MAX)), enxio);
    assert_eq!(seek(&open, SeekFrom::End(0)), Ok(end));
    assert_eq!(seek(&open, SeekFrom::End(-8)), Ok(last));
    let mut rest = Vec::new();
    io::Read::read_to_end(&mut &open, &mut rest).unwrap();
    assert_eq!(rest, [&noise(2, 1)[..], &[0; 7]].concat());
    for to in [SeekFrom::End(-(end as i64) - 1), SeekFrom::Current(-(end as i64) - 1), SeekFrom::Start(u64::MAX)] {
        assert_eq!(seek(&open, to), Err(Errno::INVAL));
    }
    assert_eq!(seek(&open, SeekFrom::Current(0)), Ok(end), "a refused seek moved");
    let hole = File::open(mounted.path("hole")).unwrap();
    assert_eq!((seek(&hole, SeekFrom::Data(0)), seek(&hole, SeekFrom::Hole(0))), (enxio, Ok(0)));
}

/// Readers of one file in every manner at once, and hints what they will want, with less memory than the file has.
#[test]
fn many_read_one_file_in_every_manner() {
    const SIZE: usize = 12_000_000;
    let tiny = Tiny::new();
    tiny.commit(&dir([("file", file(noise(1, SIZE)))]), About::at(1));
    let whole = noise(1, SIZE);
    let options = MountOptions { memory: 4 << 20, scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() };
    let mounted = Mounted::new(&tiny, options);
    let read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let (whole, read, path) = (&whole, &read, mounted.path("file"));
            scope.spawn(move || {
                let direct = if reader % 4 == 3 { libc_o_direct() } else { 0 };
                let open = File::options().read(true).custom_flags(direct).open(path).unwrap();
                let advice = [Advice::Random, Advice::Sequential, Advice::WillNeed, Advice::DontNeed][reader as usize % 4];
                let places = noise(reader, 8 * 150);
                for (n, place) in places.chunks_exact(8).enumerate() {
                    let at = u64::from_le_bytes(place.try_into().unwrap()) % SIZE as u64;
                    // Forwards, backwards, or anywhere.
                    let at = match reader % 3 {
                        0 => n as u64 * (SIZE as u64 / 150),
                        1 => SIZE as u64 - (n as u64 + 1) * (SIZE as u64 / 150),
                        _ => at,
                    };
                    fadvise(&open, at, std::num::NonZeroU64::new(100_000), advice).unwrap();
                    let mut buffer = vec![0; (SIZE - at as usize).min(60_000)];
                    open.read_exact_at(&mut buffer, at).unwrap();
                    assert!(buffer == whole[at as usize..at as usize + buffer.len()], "other bytes at {at}");
                    read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(read.into_inner() > 8 * SIZE as u64 / 2);
}
