//! The addresses of this host.
#![allow(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Addresses by which others reach this host; first the one that it has for the rest of the world. Loopback and link-local
/// ones are none.
pub fn addresses() -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = routed().into_iter().collect();
    let mut listed = listed();
    listed.sort_by_key(IpAddr::is_ipv6);
    for address in listed {
        if !out.contains(&address) {
            out.push(address);
        }
    }
    out.retain(is_reachable);
    out
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
    }
}

/// The address from which a packet to the rest of the world would come. Nothing is sent: the socket only gets a route.
fn routed() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address of RFC 5737, which nobody has.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Those of all interfaces, in the kernel's order.
fn listed() -> Vec<IpAddr> {
    let mut out = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is to live memory of this frame; the list is freed below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return out;
    }
    let mut at = first;
    // SAFETY: every pointer of the list is null or to an entry that lives until `freeifaddrs`.
    while let Some(entry) = unsafe { at.as_ref() } {
        out.extend(address(entry.ifa_addr));
        at = entry.ifa_next;
    }
    // SAFETY: `first` is what `getifaddrs` gave, and nothing points into it any more.
    unsafe { libc::freeifaddrs(first) };
    out
}

fn address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null or a socket address that lives during this call; its family says of which type it is. It may be unaligned.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_others_reach() {
        assert!(listed().iter().all(|address| !address.is_unspecified()));
        assert!(addresses().iter().all(is_reachable));
    }
}
