//! Which requests go through which proxy: `HTTPS_PROXY` and its kin, and `NO_PROXY`, for one origin after another. Pure.
//! Not here: what the proxies are, and connections to them (`network.rs`).

use std::net::IpAddr;

use super::url::{Origin, Scheme};

/// The proxies of the environment, and what is reached without them.
#[derive(Debug)]
pub(super) struct Proxies<P> {
    http: Option<P>,
    https: Option<P>,
    without: Vec<Exception>,
}

impl<P> Default for Proxies<P> {
    fn default() -> Self {
        Self {
            http: None,
            https: None,
            without: Vec::new(),
        }
    }
}

impl<P> Proxies<P> {
    /// Reads the variables, in capitals first, as Go does; `ALL_PROXY` stands in for what is not set, as with curl. A
    /// variable without text is not set. `proxy` makes a proxy of a variable's name and text.
    ///
    /// # Errors
    /// Those of `proxy`.
    pub(super) fn read<E>(
        environment: &dyn Fn(&str) -> Option<String>,
        proxy: impl Fn(&str, &str) -> Result<P, E>,
    ) -> Result<Self, E> {
        let given = |name: &str| {
            let names = [name.to_owned(), name.to_ascii_lowercase()];
            let mut found = names.into_iter().map(|name| (environment(&name), name));
            found
                .find_map(|(text, name)| Some((name, text.filter(|text| !text.trim().is_empty())?)))
        };
        let of = |name| {
            let found = given(name).or_else(|| given("ALL_PROXY"));
            found
                .map(|(name, text)| proxy(&name, text.trim()))
                .transpose()
        };
        Ok(Self {
            http: of("HTTP_PROXY")?,
            https: of("HTTPS_PROXY")?,
            without: match given("NO_PROXY") {
                Some((_, list)) => Exception::parse_list(&list),
                None => Vec::new(),
            },
        })
    }

    /// The proxy for an origin. This machine is never reached through one, since a proxy has a loopback of its own.
    pub(super) fn of(&self, origin: &Origin) -> Option<&P> {
        let proxy = match origin.scheme() {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }?;
        let host = origin.host();
        let is_loopback = host == "localhost"
            || host.ends_with(".localhost")
            || origin
                .address()
                .is_some_and(|address| address.is_loopback());
        let is_excepted = || self.without.iter().any(|without| without.meets(origin));
        (!is_loopback && !is_excepted()).then_some(proxy)
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// Every port, if none is named.
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// Addresses with the same first bits. Names are not looked up for this.
    Network(IpAddr, u32),
    /// `example.com`: it and all below.
    Domain(String),
    /// `.example.com`: what is below it, with the dot.
    Below(String),
}

impl Exception {
    /// Entries between commas or blanks. What cannot be understood matches nothing, as with Go and curl.
    fn parse_list(list: &str) -> Vec<Self> {
        let entries = list.split(|c: char| c == ',' || c.is_whitespace());
        entries
            .filter(|entry| !entry.is_empty())
            .filter_map(|entry| Self::parse(&entry.to_ascii_lowercase()))
            .collect()
    }

    fn parse(entry: &str) -> Option<Self> {
        let of_all_ports = |hosts| Some(Self { hosts, port: None });
        if entry == "*" {
            return of_all_ports(Hosts::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse().ok()?);
            return of_all_ports(Hosts::Network(address, bits)).filter(|_| bits <= width(address));
        }
        // An IPv6 address may be written with brackets or without.
        if let Some(address) = parse_address(entry) {
            return of_all_ports(Hosts::Network(address, width(address)));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        let hosts = if let Some(address) = parse_address(name) {
            Hosts::Network(address, width(address))
        } else {
            match name.strip_prefix('*').unwrap_or(name) {
                "" => Hosts::All,
                below if below.starts_with('.') => Hosts::Below(below.to_owned()),
                domain => Hosts::Domain(domain.to_owned()),
            }
        };
        Some(Self { hosts, port })
    }

    fn meets(&self, origin: &Origin) -> bool {
        if self.port.is_some_and(|port| port != origin.port()) {
            return false;
        }
        match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network, bits) => origin
                .address()
                .is_some_and(|address| are_in_one_network(*network, address, *bits)),
            Hosts::Domain(domain) => {
                let above = origin.host().strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Hosts::Below(below) => origin.host().ends_with(below.as_str()),
        }
    }
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok()
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn are_in_one_network(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= bits
}

#[cfg(test)]
mod tests {
    use super::super::url::Url;
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies<String> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        let proxy = |name: &str, text: &str| Ok::<_, ()>(format!("{name} {text}"));
        Proxies::read(&environment, proxy).unwrap()
    }

    fn of<'a>(proxies: &'a Proxies<String>, url: &str) -> Option<&'a str> {
        let url = Url::parse(url).unwrap();
        proxies.of(url.origin()).map(String::as_str)
    }

    #[test]
    fn each_scheme_has_its_variables() {
        let (http, https, all) = (
            ("HTTP_PROXY", "h"),
            ("HTTPS_PROXY", "s"),
            ("ALL_PROXY", "a"),
        );
        for (variables, for_http, for_https) in [
            (&[] as &[_], None, None),
            (&[http], Some("HTTP_PROXY h"), None),
            (&[https], None, Some("HTTPS_PROXY s")),
            (&[all], Some("ALL_PROXY a"), Some("ALL_PROXY a")),
            (&[http, all], Some("HTTP_PROXY h"), Some("ALL_PROXY a")),
            (
                &[http, https, all],
                Some("HTTP_PROXY h"),
                Some("HTTPS_PROXY s"),
            ),
            (&[("https_proxy", " l ")], None, Some("https_proxy l")),
            (&[https, ("https_proxy", "l")], None, Some("HTTPS_PROXY s")),
            (
                &[("HTTPS_PROXY", " "), ("https_proxy", "l")],
                None,
                Some("https_proxy l"),
            ),
            (
                &[("HTTPS_PROXY", ""), all],
                Some("ALL_PROXY a"),
                Some("ALL_PROXY a"),
            ),
        ] {
            let proxies = proxies(variables);
            assert_eq!(of(&proxies, "http://r.example/"), for_http, "{variables:?}");
            assert_eq!(
                of(&proxies, "https://r.example/"),
                for_https,
                "{variables:?}"
            );
        }
    }

    #[test]
    fn this_machine_is_never_reached_through_a_proxy() {
        let proxies = proxies(&[("ALL_PROXY", "p")]);
        for host in [
            "localhost",
            "r.localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
        ] {
            assert_eq!(of(&proxies, &format!("https://{host}/")), None, "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "[::2]", "10.0.0.1"] {
            assert!(
                of(&proxies, &format!("https://{host}/")).is_some(),
                "{host}"
            );
        }
    }

    #[test]
    fn no_proxy_names_what_is_reached_directly() {
        for (list, host, is_direct) in [
            ("*", "r.example", true),
            ("other, *", "10.0.0.1", true),
            ("r.example", "r.example", true),
            ("R.Example", "r.example", true),
            ("r.example", "a.r.example", true),
            ("r.example", "ar.example", false),
            ("r.example", "r.example.org", false),
            (".example", "r.example", true),
            (".example", "a.r.example", true),
            (".r.example", "r.example", false),
            ("*.r.example", "a.r.example", true),
            ("*.r.example", "r.example", false),
            ("r.example:5000", "r.example:5000", true),
            ("r.example:5000", "r.example", false),
            ("r.example:443", "r.example", true),
            (".example:443", "r.example:5000", false),
            ("*:5000", "r.example:5000", true),
            ("*:5000", "r.example", false),
            ("10.0.0.1", "10.0.0.1:5000", true),
            ("10.0.0.1", "10.0.0.10", false),
            ("10.0.0.1:5000", "10.0.0.1:5000", true),
            ("10.0.0.1:5000", "10.0.0.1", false),
            ("10.0.0.0/8", "10.255.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.2", false),
            ("0.0.0.0/0", "93.184.216.34", true),
            ("0.0.0.0/0", "r.example", false),
            ("0.0.0.0/0", "[fd00::1]", false),
            ("fd00::/8", "[fd12::1]:5000", true),
            ("fd00::/8", "[fe80::1]", false),
            ("fd00::1", "[fd00::1]", true),
            ("[fd00::1]", "[fd00::1]:5000", true),
            ("[fd00::1]:5000", "[fd00::1]:5000", true),
            ("[fd00::1]:5000", "[fd00::1]", false),
            ("a.example, b.example c.example,,", "c.example", true),
            ("a.example b.example", "d.example", false),
            // Nonsense matches nothing.
            ("10.0.0.0/33", "10.0.0.1", false),
            ("10.0.0.0/x", "10.0.0.1", false),
            ("x/8", "10.0.0.1", false),
            ("r.example:x", "r.example", false),
            ("", "r.example", false),
        ] {
            let proxies = proxies(&[("ALL_PROXY", "p"), ("no_proxy", list)]);
            let found = of(&proxies, &format!("https://{host}/"));
            assert_eq!(found.is_none(), is_direct, "{list:?} {host}");
        }
    }
}
