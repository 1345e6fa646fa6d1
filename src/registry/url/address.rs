//! Where addresses lead (reliability.md section 3). Not here: which of them a registry may send us to, and look-ups.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressClass {
    /// Out into the world.
    Public,
    /// Into the local network, that of a carrier or a cloud's own included.
    Private,
    /// Into this machine.
    Loopback,
    /// To a neighbour on the wire.
    LinkLocal,
    /// No address at all; Linux takes it for this machine.
    Unspecified,
    /// To many or to nobody: multicast, broadcast, reserved.
    Multicast,
    /// To a cloud's server of instance credentials.
    Metadata,
}

impl AddressClass {
    /// The class of an address. An IPv6 address that stands for an IPv4 address is of that one's class.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => class_of_v4(v4),
            IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| class_of_v6(v6), class_of_v4),
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast or reserved",
            Self::Metadata => "cloud metadata",
        })
    }
}

fn class_of_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        // AWS, Azure, Google and most others; Alibaba Cloud; Oracle's older cloud.
        [169, 254, 169, 254] | [100, 100, 100, 200] | [192, 0, 0, 192] => AddressClass::Metadata,
        [127, ..] => AddressClass::Loopback,
        [169, 254, ..] => AddressClass::LinkLocal,
        [0, ..] => AddressClass::Unspecified,
        [224..=255, ..] => AddressClass::Multicast,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
            AddressClass::Private
        }
        // Between a carrier and its customers, and for measuring: not routed in the world (RFC 6890, RFC 2544).
        [192, 0, 0, _] | [198, 18..=19, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

fn class_of_v6(address: Ipv6Addr) -> AddressClass {
    match address.segments() {
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] => AddressClass::Metadata, // AWS
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressClass::Unspecified,
        [0xfe80..=0xfebf, ..] => AddressClass::LinkLocal,
        [0xff00..=0xffff, ..] => AddressClass::Multicast,
        // Unique local and the older site local addresses; a network's own NAT64, which may lead anywhere (RFC 8215).
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, by NAT64 or by 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_class() {
        for (class, addresses) in [
            (
                AddressClass::Public,
                "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 \
                169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 192.0.1.0 \
                198.17.255.255 198.20.0.0 223.255.255.255 \
                2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 64:ff9b:2:: 2002:808:808::1 fbff::1 fe00::1 2001:db8::1",
            ),
            (
                AddressClass::Private,
                "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 \
                100.64.0.0 100.127.255.255 fc00:: fdff::1 fec0::1 feff::1 ::ffff:10.0.0.1 64:ff9b::a00:1 \
                2002:c0a8:101::1 ::10.1.2.3 192.0.0.0 192.0.0.255 198.18.0.0 198.19.255.255 64:ff9b:1:: \
                64:ff9b:1:ffff::808:808 64:ff9b::c612:1",
            ),
            (
                AddressClass::Loopback,
                "127.0.0.0 127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::",
            ),
            (
                AddressClass::LinkLocal,
                "169.254.0.0 169.254.169.253 169.254.255.255 fe80::1 febf::1 ::ffff:169.254.1.1",
            ),
            (
                AddressClass::Unspecified,
                "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 ::2",
            ),
            (
                AddressClass::Multicast,
                "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 ff00:: ff02::1 ::ffff:224.0.0.1",
            ),
            (
                AddressClass::Metadata,
                "169.254.169.254 100.100.100.200 192.0.0.192 fd00:ec2::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe",
            ),
        ] {
            for address in addresses.split_whitespace() {
                assert_eq!(
                    AddressClass::of(address.parse().unwrap()),
                    class,
                    "{address}"
                );
            }
        }
    }
}
