use super::*;
use proptest::prelude::*;

/// curl, 10.0.0.2:50000 to 10.1.2.3:443, TCP.
#[derive(Clone)]
struct Connection {
    protocol: u8,
    source: Option<&'static str>,
    destination: Option<&'static str>,
    hostname: Option<&'static str>,
    pid: Option<u32>,
    comm: Option<&'static str>,
    netns: Option<u32>,
    netns_name: Option<&'static str>,
    code: Option<&'static str>,
}

const CURL: Connection = Connection {
    protocol: 6,
    source: Some("10.0.0.2:50000"),
    destination: Some("10.1.2.3:443"),
    hostname: Some("www.Example.org."),
    pid: Some(4213),
    comm: Some("curl"),
    netns: Some(4026531840),
    netns_name: Some("blue"),
    code: Some("timeout.firewall-drop"),
};
const UNKNOWN: Connection = Connection {
    protocol: 6,
    source: None,
    destination: None,
    hostname: None,
    pid: None,
    comm: None,
    netns: None,
    netns_name: None,
    code: None,
};
const DNS: Connection = Connection {
    protocol: 17,
    source: Some("[2001:db8::1]:40000"),
    destination: Some("[2001:db8::53]:53"),
    ..CURL
};

impl Subject for Connection {
    fn protocol(&self) -> u8 {
        self.protocol
    }
    fn source(&self) -> Option<SocketAddr> {
        self.source.map(|text| text.parse().unwrap())
    }
    fn destination(&self) -> Option<SocketAddr> {
        self.destination.map(|text| text.parse().unwrap())
    }
    fn hostname(&self) -> Option<&str> {
        self.hostname
    }
    fn pid(&self) -> Option<u32> {
        self.pid
    }
    fn comm(&self) -> Option<&str> {
        self.comm
    }
    fn netns(&self) -> Option<u32> {
        self.netns
    }
    fn netns_name(&self) -> Option<&str> {
        self.netns_name
    }
    fn code(&self) -> Option<&str> {
        self.code
    }
}

const SERVICES: &str = "# comment\nhttp 80/tcp www # web\nhttps 443/tcp\nhttps 443/udp\nsyslog 514/udp\n\
    ftp-data 20/tcp\nssh 22/tcp\nbad line\n";

fn try_parse(expression: &str) -> Result<Filter, FilterError> {
    parser::parse(expression, || SERVICES.to_owned()).map(|program| Filter { program }).map_err(|problem| {
        FilterError { expression: expression.to_owned(), offset: problem.offset, message: problem.message }
    })
}

fn ask(expression: &str, subject: &Connection) -> Option<bool> {
    try_parse(expression).unwrap_or_else(|error| panic!("{error}\n{}", error.pointer())).matches(subject)
}

#[track_caller]
fn all(subject: &Connection, answer: Option<bool>, expressions: &[&str]) {
    for expression in expressions {
        assert_eq!(ask(expression, subject), answer, "{expression}");
    }
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);

#[test]
fn addresses() {
    all(
        &CURL,
        YES,
        &[
            "host 10.0.0.2",
            "host 10.1.2.3",
            "10.1.2.3",
            "src 10.0.0.2",
            "src host 10.0.0.2",
            "dst 10.1.2.3",
            "src or dst host 10.1.2.3",
            "dst or src host 10.1.2.3",
            "src || dst 10.1.2.3",
            "host ::ffff:10.1.2.3",
            "net 10.0.0.0/8",
            "10.1.2.0/24",
            "dst net 10.1.2.0/24",
            "net 10",
            "net 10.1",
            "net 10.1/16",
            "net 0.0.0.0/0",
            "src and dst net 10.0.0.0/8",
            "net 10.1.2.0 mask 255.255.255.0",
            "10.1.2.0 mask 255.255.255.0",
            "ip host 10.1.2.3",
            "tcp 10.1.2.3",
            "tcp host 10.1.2.3",
            "net 10.1.2.3",
            "ip src net 10.0.0.0/24",
        ],
    );
    all(
        &CURL,
        NO,
        &[
            "host 10.9.9.9",
            "src 10.1.2.3",
            "dst host 10.0.0.2",
            "dst and src net 10.1.2.0/24",
            "net 10.2",
            "net 11.0.0.0/8",
            "ip6 host ::1",
            "net ::/0",
            "udp host 10.1.2.3",
        ],
    );
    all(
        &DNS,
        YES,
        &[
            "host 2001:db8::53",
            "2001:db8::53",
            "net 2001:db8::/32",
            "net ::/0",
            "ip6 net 2001:db8::/32",
            "net 2001:db8:: mask ffff:ffff::",
            "src 2001:db8::/64",
        ],
    );
    all(&DNS, NO, &["net 0.0.0.0/0", "net 2001:db9::/32"]);
    let mapped = Connection { source: Some("[::ffff:10.0.0.2]:1"), ..CURL };
    all(&mapped, YES, &["src 10.0.0.2", "ip", "src net 10.0.0.0/8"]);
}

#[test]
fn host_names() {
    all(&CURL, YES, &["host www.example.org", "host WWW.example.org.", "dst host www.example.org"]);
    all(&CURL, YES, &["host nothing.example or www.example.org", "tcp host www.example.org"]);
    all(&CURL, NO, &["host example.org", "not host www.example.org"]);
    all(&UNKNOWN, None, &["host www.example.org"]);
    assert_error("src host www.example.org", 9, "a name is known of the destination only");
    assert_error("www.example.org", 0, "did you mean `host www.example.org`?");
    assert_error("dst www.example.org", 4, "did you mean `host www.example.org`?");
    assert_error("tcp www.example.org", 4, "did you mean `host www.example.org`?");
}

#[test]
fn ports() {
    all(
        &CURL,
        YES,
        &[
            "port 443",
            "dst port 443",
            "src port 50000",
            "tcp port 443",
            "tcp dst port 443",
            "ip port 443",
            "src or dst port 443",
            "portrange 400-500",
            "src portrange 49152-65535",
            "tcp portrange 443-443",
            "portrange 443",
            "port https",
            "tcp port https",
            "port 80 or https",
            "portrange ftp-data-https",
        ],
    );
    all(
        &CURL,
        NO,
        &[
            "port 80",
            "src port 443",
            "udp port 443",
            "ip6 port 443",
            "src and dst port 443",
            "portrange 1-442",
            "port http",
            "port www",
            "port syslog",
            "udp port https",
        ],
    );
    let ping =
        Connection { protocol: 1, source: Some("10.0.0.2:0"), destination: Some("10.1.2.3:0"), ..CURL };
    all(&ping, NO, &["port 0", "port http"]);
    all(&ping, YES, &["icmp", "ip", "icmp host 10.1.2.3", "not port 0"]);
    assert_eq!("port ssh".parse::<Filter>().unwrap().matches(&CURL), NO);
}

#[test]
fn protocols() {
    all(&CURL, YES, &["tcp", "ip", "not udp", "! icmp", "!icmp6", "tcp and ip", "tcp && ip", "udp || tcp"]);
    all(&DNS, YES, &["udp", "ip6", "udp port 53"]);
    all(&DNS, NO, &["tcp", "ip", "icmp", "icmp6"]);
    let ping6 = Connection { protocol: 58, ..UNKNOWN };
    all(&ping6, YES, &["icmp6", "ip6", "not ip"]);
    all(&UNKNOWN, None, &["ip", "ip6"]);
}

#[test]
fn own_words() {
    all(
        &CURL,
        YES,
        &[
            "pid 4213",
            "pid 1 or 4213",
            "comm curl",
            "comm cu*",
            "comm c?rl",
            "comm 'curl'",
            "comm wget or curl",
            "comm (wget or curl)",
            "netns blue",
            "netns 4026531840",
            "netns net:[4026531840]",
            "code timeout.*",
            "code timeout",
            "code timeout.firewall-drop",
            "code *drop",
            "code refused or timeout",
        ],
    );
    all(
        &CURL,
        NO,
        &[
            "pid 1",
            "comm cur",
            "comm CURL",
            "comm tcp",
            "comm 'Web Content'",
            r"comm Web\ Content",
            "netns red",
            "netns 1",
            "netns '4026531840'",
            "code refused.*",
            "code timeouts",
            "comm wget or node",
        ],
    );
    let long = Connection { comm: Some("prometheus-node"), ..CURL };
    all(&long, YES, &["comm prometheus-node-exporter", "comm prometheus-*", "comm *node"]);
}

#[test]
fn elision_repeats_the_qualifiers() {
    all(
        &CURL,
        YES,
        &[
            "host 10.9.9.9 or 10.1.2.3",
            "port 80 or 443",
            "dst port 80 or 443",
            "dst port (80 or 443)",
            "src (10.0.0.1 or 10.0.0.2)",
            "port 80 or (22 or 443)",
            "port 443 and not 80",
            "host not 10.9.9.9",
            "net 10.0.0.0/8 and 10.1.0.0/16",
            "tcp and 10.1.2.3",
        ],
    );
    all(&CURL, NO, &["src port 80 or 443", "udp port 53 or 443", "src host 10.9.9.9 or 10.1.2.3"]);
    // As tcpdump's manual has it: `not host a and b` is not `not (host a or b)`.
    all(&CURL, YES, &["not host 10.9.9.9 and 10.1.2.3"]);
    assert_error("tcp or 443", 7, "did you mean `port 443`?");
    assert_error("(port 80) or 443", 13, "did you mean `port 443`?");
    assert_error("port 80 and 10.0.0.1", 12, "expected a port number or a service name, found `10.0.0.1`");
}

#[test]
fn and_and_or_bind_alike_from_the_left() {
    all(&CURL, NO, &["tcp or udp and port 53", "tcp or tcp and udp"]);
    all(&CURL, YES, &["tcp or (udp and port 53)", "udp and tcp or tcp", "not udp or tcp", "not udp and tcp"]);
    all(&CURL, NO, &["not (udp or tcp)", "not not udp", "not tcp or udp"]);
    all(&CURL, YES, &["not not tcp", "!!tcp", "((tcp))", "not(udp)or(udp)"]);
}

#[test]
fn unknown_facts() {
    all(
        &UNKNOWN,
        None,
        &["pid 1", "comm a", "netns a", "netns 1", "code a", "port 1", "not code a", "10.0.0.1"],
    );
    all(&UNKNOWN, None, &["tcp and code a", "udp or code a", "code a and comm b", "code a or comm b"]);
    all(&UNKNOWN, NO, &["udp and code a", "udp port 53", "code a and udp"]);
    all(&UNKNOWN, YES, &["tcp or code a", "code a or tcp", "not (udp and code a)"]);
    let half = Connection { destination: None, ..CURL };
    all(&half, None, &["host 10.1.2.3", "src and dst host 10.0.0.2"]);
    all(&half, YES, &["host 10.0.0.2", "ip"]);
    all(&half, NO, &["src 10.1.2.3", "src and dst net 11.0.0.0/8"]);
}

#[track_caller]
fn assert_error(expression: &str, offset: usize, part: &str) {
    let error = try_parse(expression).map(|_| ()).expect_err(expression);
    assert!(error.message.contains(part), "{expression}: {error}");
    assert_eq!(error.offset, offset, "{error}");
}

#[test]
fn errors_say_where_and_what_instead() {
    assert_error("", 0, "expected a test such as `port 80` or `host 10.0.0.1`, found the end");
    assert_error("port foo", 5, "expected a port number or a service name, found `foo`");
    assert_error("port htps", 5, "did you mean `https`?");
    assert_error("port 70000", 5, "expected a port from 0 to 65535, found `70000`");
    assert_error("port 80-90", 5, "did you mean `portrange 80-90`?");
    assert_error("port", 4, "found the end");
    assert_error("port and tcp", 5, "found `and`");
    assert_error("tcp port syslog", 9, "expected a tcp service");
    assert_error("icmp port 80", 5, "`icmp` has no ports");
    assert_error("portrange 90-80", 10, "did you mean `portrange 80-90`?");
    assert_error("portrange a-b", 10, "expected two ports");
    assert_error("prot 80", 0, "did you mean `port`?");
    assert_error("tcp and hsot 10.0.0.1", 8, "did you mean `host`?");
    assert_error("port 80 or hsot 10.0.0.1", 11, "did you mean `host`?");
    assert_error("comm curl or prot 80", 13, "did you mean `port`?");
    assert_error("TCP", 0, "did you mean `tcp`?");
    assert_error("ipv6", 0, "did you mean `ip6`?");
    assert_error("tcp 80", 4, "did you mean `port 80`?");
    assert_error("tcp udp", 4, "expected `and`, `or`");
    assert_error("tcp adn udp", 4, "found `adn`");
    assert_error("port 80 adn udp", 8, "did you mean `and`?");
    assert_error("tcp pid 5", 4, "did you mean `tcp and pid`?");
    assert_error("src pid 5", 4, "`pid` has no direction");
    assert_error("src tcp port 80", 4, "expected `tcp` before `src` and `dst`");
    assert_error("src", 3, "expected `host`");
    assert_error("pid curl", 4, "did you mean `comm curl`?");
    assert_error("pid +1", 4, "expected a process id");
    assert_error("host 10.0.0.0/8", 5, "did you mean `net 10.0.0.0/8`?");
    assert_error("host 10.0.0.300", 5, "expected an address or a host name");
    assert_error("host tcp", 5, "found `tcp`");
    assert_error("host fe80::1%eth0", 5, "write fe80::1");
    assert_error("10.0.0.1:80", 0, "did you mean `host 10.0.0.1 and port 80`?");
    assert_error("net 10.0.0.1/8", 4, "the network is 10.0.0.0");
    assert_error("net 10.0.0.0/33", 4, "from 0 to 32");
    assert_error("net 10.0.0.0 mask", 17, "expected a mask");
    assert_error("net 10.0.0.0 mask ::", 18, "expected a mask");
    assert_error("ip6 host 10.0.0.1", 9, "expected an IPv6 address after `ip6`");
    assert_error("ip host ::1", 8, "expected an IPv4 address after `ip`");
    assert_error("ether host a", 0, "it has no `ether`");
    assert_error("tcp[13] = 2", 0, "packets");
    assert_error("tcp & udp", 4, "expected `&&`");
    assert_error("(tcp or udp", 11, "expected `and`, `or` or `)`, found the end");
    assert_error("tcp)", 3, "found `)` without a `(`");
    assert_error("comm 'a", 5, "closing '");
    assert_error("comm ''", 5, "empty word");
    assert_error("comm a\\", 5, "backslash");
    assert_error("comm prometheus-node-*", 5, "at most 15 bytes");
    assert_error(&"(".repeat(65), 64, "nested more than 64 deep");
}

#[test]
fn an_error_is_shown_in_one_line_or_with_a_pointer() {
    let error = try_parse("comm é and\nport foo").unwrap_err();
    assert_eq!(error.offset, 17);
    assert_eq!(
        error.to_string(),
        "bad filter at character 17: expected a port number or a service name, found `foo`"
    );
    assert_eq!(error.pointer(), "comm é and port foo\n                ^");
}

#[test]
fn words_of_a_command_line() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(Filter::from_args(&[]).unwrap().is_none());
    assert!(Filter::from_args(&["".into(), " ".into()]).unwrap().is_none());
    let filter = Filter::from_args(&words("tcp port 443")).unwrap().unwrap();
    assert_eq!(filter.matches(&CURL), YES);
    assert_eq!(Filter::from_args(&words("tcp prot 80")).unwrap_err().offset, 4);
}

#[test]
fn long_expressions_do_not_exhaust_the_stack() {
    all(&CURL, YES, &[&format!("udp{}", " or tcp".repeat(100_000)), &format!("{}tcp", "!".repeat(200_000))]);
}

fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "host",
        "net",
        "port",
        "portrange",
        "src",
        "dst",
        "tcp",
        "icmp6",
        "ip6",
        "pid",
        "comm",
        "netns",
        "code",
        "and",
        "or",
        "not",
        "(",
        ")",
        "!",
        "mask",
        "10.0.0.1",
        "10.0.0.0/8",
        "::1",
        "80",
        "1-2",
        "http",
        "a.b",
        "é*?",
        "'",
        "\\",
        "&&",
        "10",
        "255.0.0.0",
    ]);
    prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn any_input_gives_a_filter_or_an_error_in_bounds(expression in prop_oneof![any::<String>(), words()]) {
        match try_parse(&expression) {
            Ok(filter) => {
                filter.matches(&CURL);
                filter.matches(&UNKNOWN);
            }
            Err(error) => {
                prop_assert!(error.offset <= expression.len());
                prop_assert!(expression.is_char_boundary(error.offset));
                prop_assert!(!error.to_string().contains(char::is_control));
                prop_assert_eq!(error.pointer().lines().count(), 2);
            }
        }
    }

    #[test]
    fn not_turns_every_answer(expression in words()) {
        if let (Ok(plain), Ok(negated)) = (try_parse(&expression), try_parse(&format!("not ({expression})"))) {
            prop_assert_eq!(plain.matches(&CURL).map(|yes| !yes), negated.matches(&CURL));
            prop_assert_eq!(plain.matches(&UNKNOWN).map(|yes| !yes), negated.matches(&UNKNOWN));
        }
    }

    #[test]
    fn a_glob_of_a_name_with_stars_matches_it(name in "[a-c]{0,8}", at in 0_usize..8) {
        let at = at.min(name.len());
        let glob = eval::Glob::new(&format!("{}*{}", &name[..at], &name[at..]));
        prop_assert!(glob.matches(&name));
    }
}
