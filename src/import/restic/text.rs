//! Texts as Go writes them: quoted names, base64, file modes, times.

use crate::model::Timestamp;

/// Bits of Go's `os.FileMode`.
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const STICKY: u32 = 1 << 20;

/// The permissions in a mode of Go.
pub(super) fn mode(mode: u32) -> u16 {
    let special = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];
    (mode & 0o777) as u16 | special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, mode)| mode).sum::<u16>()
}

/// Major and minor number of a device as Linux puts them into one.
pub(super) fn device(number: u64) -> (u32, u32) {
    let major = (number >> 8 & 0xfff) | (number >> 32 & !0xfff);
    let minor = (number & 0xff) | (number >> 12 & !0xff);
    (major as u32, minor as u32)
}

/// A time in RFC 3339, as Go writes it.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let (secs, nanos) = (time.as_second(), time.subsec_nanosecond());
    // Nanoseconds of a time before 1970 count back.
    Some(match u32::try_from(nanos) {
        Ok(nanos) => Timestamp { secs, nanos },
        Err(_) => Timestamp { secs: secs - 1, nanos: (1_000_000_000 + nanos) as u32 },
    })
}

/// What base64 says; `None` for anything else.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    let (mut held, mut bits) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (held == 0).then_some(out)
}

/// The bytes of a name that Go's `strconv.Quote` wrote, without its quotes. What is no such text is taken as it is, as restic
/// before 0.3 wrote it.
pub(super) fn unquoted(text: &str) -> Vec<u8> {
    unquote(text).unwrap_or_else(|| text.as_bytes().to_vec())
}

fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match rest.next()? {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            c @ ('\\' | '\'' | '"') => out.push(c as u8),
            'x' => out.push(u8::try_from(digits(&mut rest, 2, 16, 0)?).ok()?),
            first @ '0'..='3' => out.push(u8::try_from(digits(&mut rest, 2, 8, first.to_digit(8)?)?).ok()?),
            long @ ('u' | 'U') => {
                let c = char::from_u32(digits(&mut rest, if long == 'u' { 4 } else { 8 }, 16, 0)?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    Some(out)
}

fn digits(rest: &mut std::str::Chars<'_>, count: usize, radix: u32, first: u32) -> Option<u32> {
    (0..count).try_fold(first, |value, _| value.checked_mul(radix)?.checked_add(rest.next()?.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unquoted_to_bytes() {
        let cases: [(&str, &[u8]); 8] = [
            ("plain", b"plain"),
            (r"a\nb\t\\\x22", b"a\nb\t\\\""),
            (r"\xff\xfe\x00", &[0xff, 0xfe, 0]),
            (r"\u00ad\U000e0001", "\u{ad}\u{e0001}".as_bytes()),
            (r"\101\377", b"A\xff"),
            ("grüße", "grüße".as_bytes()),
            // What no Go program quotes so.
            (r"c:\dir", br"c:\dir"),
            (r"\x4", br"\x4"),
        ];
        for (text, bytes) in cases {
            assert_eq!(unquoted(text), bytes, "{text}");
        }
    }

    #[test]
    fn numbers_are_linux_ones() {
        assert_eq!((mode(0o644), mode(SETUID | 0o755), mode(1 << 31 | STICKY | 0o777)), (0o644, 0o4755, 0o1777));
        assert_eq!(device(0x801), (8, 1));
        assert_eq!(device(0x0001_0000_0ff0_0203), (0x1_0002, 0xff03));
    }

    #[test]
    fn times_and_base64_are_read() {
        let at = |secs, nanos| Some(Timestamp { secs, nanos });
        assert_eq!(time("2022-01-01T01:00:00.123456789+01:00"), at(1_640_995_200, 123_456_789));
        assert_eq!(time("1969-12-31T23:59:59.5Z"), at(-1, 500_000_000));
        assert_eq!((time("0001-01-01T00:00:00Z"), time("yesterday")), (at(-62_135_596_800, 0), None));
        assert_eq!(
            (base64("AQID"), base64("/w=="), base64(""), base64("+/8=")),
            (Some(vec![1, 2, 3]), Some(vec![255]), Some(vec![]), Some(vec![251, 255]))
        );
        assert_eq!((base64("AQI"), base64("A==="), base64("A*=="), base64("/x==")), (None, None, None, None));
    }
}
