//! The body of a run.

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::snapshot::MAX_TEXT;
use crate::model::{Requests, Run, RunRewrite, RunStep, SnapshotId, Timestamp};

/// The longest end of a log.
pub(crate) const MAX_LOG: usize = 256 << 10;
/// The most steps.
pub(crate) const MAX_STEPS: usize = 1000;
/// The most rewrites.
pub(crate) const MAX_REWRITES: usize = 10_000;

/// Encodes the body. An error for what no reader would take.
pub fn encode_run(run: &Run) -> Result<Vec<u8>> {
    let bytes = run_bytes(run);
    match decode_run(&bytes) {
        Ok(found) if found == *run => Ok(bytes),
        Ok(_) => Err(Error::invalid("a run cannot be stored: it would be read as something else")),
        Err(e) => Err(Error::invalid(format!("a run cannot be stored, since it could not be read: {e}"))),
    }
}

fn run_bytes(run: &Run) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.varint(run.kind));
    out.field(2, |v| v.varint(run.state));
    out.field(4, |v| v.extend_from_slice(&run.host));
    out.field(6, |v| v.extend_from_slice(&run.user));
    out.field(8, |v| v.extend_from_slice(&run.set));
    out.field(10, |v| v.timestamp(run.started));
    out.field(12, |v| v.timestamp(run.finished));
    if let Some(id) = run.snapshot {
        out.field(14, |v| v.extend_from_slice(&id.0));
    }
    out.field(16, |v| v.varint(run.bytes));
    out.field(18, |v| v.varint(run.errors));
    out.field(20, |v| v.extend_from_slice(&run.target));
    out.field(22, |v| v.extend_from_slice(&run.message));
    out.field(24, |v| run.steps.iter().for_each(|step| put_step(step, v)));
    out.field(26, |v| v.extend_from_slice(&run.log));
    out.field(28, |v| v.extend_from_slice(&run.program));
    if !run.rewrites.is_empty() {
        out.field(30, |v| run.rewrites.iter().for_each(|rewrite| put_rewrite(rewrite, v)));
    }
    if let Some(asked) = &run.requests {
        out.field(32, |v| numbers(asked).into_iter().for_each(|number| v.varint(number)));
    }
    out.push(0);
    out
}

fn numbers(asked: &Requests) -> [u64; 7] {
    let Requests { put, get, head, list, delete, sent, received } = *asked;
    [put, get, head, list, delete, sent, received]
}

fn put_step(step: &RunStep, out: &mut Vec<u8>) {
    out.bytes(&step.name);
    out.timestamp(step.started);
    out.timestamp(step.finished);
    out.bytes(&step.failure);
}

fn put_rewrite(rewrite: &RunRewrite, out: &mut Vec<u8>) {
    out.varint(rewrite.kind);
    [&rewrite.path, &rewrite.was, &rewrite.is].into_iter().for_each(|text| out.bytes(text));
    out.varint(rewrite.count);
}

/// Decodes the body.
pub fn decode_run(bytes: &[u8]) -> Result<Run> {
    let mut cursor = Cursor::new(bytes, "a run");
    let mut started: Option<Timestamp> = None;
    let mut out = Run::default();
    cursor.fields(|tag, mut v| {
        match tag {
            1 => out.kind = v.varint()?,
            2 => out.state = v.varint()?,
            4 => out.host = v.text(MAX_TEXT)?,
            6 => out.user = v.text(MAX_TEXT)?,
            8 => out.set = v.text(MAX_TEXT)?,
            10 => started = Some(v.timestamp()?),
            12 => out.finished = v.timestamp()?,
            14 => out.snapshot = Some(SnapshotId(v.array()?)),
            16 => out.bytes = v.varint()?,
            18 => out.errors = v.varint()?,
            20 => out.target = v.text(MAX_TEXT)?,
            22 => out.message = v.text(MAX_TEXT)?,
            24 => out.steps = steps(&mut v)?,
            26 => out.log = v.text(MAX_LOG)?,
            28 => out.program = v.text(MAX_TEXT)?,
            30 => out.rewrites = rewrites(&mut v)?,
            32 => out.requests = Some(requests(&mut v)?),
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    out.started = started.ok_or_else(|| cursor.error("it does not say when it began"))?;
    Ok(out)
}

fn requests(v: &mut Cursor<'_>) -> Result<Requests> {
    let (put, get, head, list, delete) = (v.varint()?, v.varint()?, v.varint()?, v.varint()?, v.varint()?);
    Ok(Requests { put, get, head, list, delete, sent: v.varint()?, received: v.varint()? })
}

fn rewrites(v: &mut Cursor<'_>) -> Result<Vec<RunRewrite>> {
    let mut out = Vec::new();
    while v.remaining() > 0 {
        if out.len() == MAX_REWRITES {
            return Err(v.error("it has too many rewrites"));
        }
        let kind = v.varint()?;
        let (path, was, is) = (v.bytes(MAX_TEXT)?.to_vec(), v.bytes(MAX_TEXT)?.to_vec(), v.bytes(MAX_TEXT)?.to_vec());
        out.push(RunRewrite { kind, path, was, is, count: v.varint()? });
    }
    Ok(out)
}

fn steps(v: &mut Cursor<'_>) -> Result<Vec<RunStep>> {
    let mut out = Vec::new();
    while v.remaining() > 0 {
        if out.len() == MAX_STEPS {
            return Err(v.error("it has too many steps"));
        }
        let name = v.bytes(MAX_TEXT)?.to_vec();
        let (started, finished) = (v.timestamp()?, v.timestamp()?);
        out.push(RunStep { name, started, finished, failure: v.bytes(MAX_TEXT)?.to_vec() });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let time = Timestamp { secs: 5, nanos: 6 };
        let step = RunStep { name: b"before".to_vec(), started: time, finished: time, failure: b"no".to_vec() };
        let run = Run {
            kind: 7,
            state: 9,
            host: b"web".to_vec(),
            started: time,
            snapshot: Some(SnapshotId([3; 32])),
            steps: vec![step.clone(), RunStep::default()],
            log: b"a\nb".to_vec(),
            requests: Some(Requests { put: 1, get: 2, head: 3, list: 4, delete: 5, sent: 6, received: 7 }),
            rewrites: vec![RunRewrite { kind: 1, path: b"/x".to_vec(), was: b"a".to_vec(), is: Vec::new(), count: 2 }],
            ..Run::default()
        };
        let bytes = encode_run(&run).expect("it can be stored");
        assert_eq!(decode_run(&bytes).expect("it can be read"), run);
        for len in 0..bytes.len() {
            assert!(decode_run(&bytes[..len]).is_err(), "{len}");
        }
        assert!(encode_run(&Run { log: vec![b'x'; MAX_LOG + 1], ..run.clone() }).is_err());
        assert!(encode_run(&Run { steps: vec![step; MAX_STEPS + 1], ..run }).is_err());
    }
}
