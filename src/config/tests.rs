//! Accepted and refused settings; a message names place, key, found and expected.

use super::*;
use crate::log_style::LogField;
use crate::network::NetworkMap;

fn build(text: &str, overrides: &[&str]) -> Result<Config, Vec<String>> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Config::build(Some(("m.conf", text)), &overrides)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn refused(text: &str, overrides: &[&str], expected: &str) {
    let problems = build(text, overrides).expect_err("it should be refused");
    assert!(
        problems.iter().any(|problem| problem.contains(expected)),
        "expected {expected:?} in {problems:?}"
    );
}

#[test]
fn nothing_written_is_the_default() {
    assert_eq!(build("", &[]), Ok(Config::default()));
    assert_eq!(build("# bind = x\n\n   \n", &[]), Ok(Config::default()));
}

#[test]
fn the_original_s_file_is_read() {
    let config = build(
        "# comment\nBind = *:80 # everywhere\nbind = [::1]:8080\nbind_internal = 127.0.0.1:81\n\
         bind_management = [::1]:8042\nstate_file = /tmp/s.json\nuid = 4321\ngid=4321\n\
         static_dir = /etc/mantrid/static/\n",
        &[],
    )
    .expect("a good file");
    assert_eq!(config.bind.len(), 2);
    assert_eq!(
        config.bind[0],
        Bind { address: Address::Any(80), accept_proxy: false, https: false }
    );
    assert_eq!(config.bind_internal[0].address.to_string(), "127.0.0.1:81");
    assert_eq!(config.uid, Identity::Id(4321));
}

#[test]
fn overrides_win_and_replace() {
    let config = build("bind = *:80\nbind = *:81\nshards = 4", &["bind=127.0.0.1:0", "shards = 1"])
        .expect("good");
    let address = Address::At("127.0.0.1:0".parse().expect("address"));
    assert_eq!(config.bind, vec![Bind { address, accept_proxy: false, https: false }]);
    assert_eq!(config.shards, Some(1));
}

#[test]
fn durations_and_sizes() {
    let config =
        build("timeout_client = 500ms\ntimeout_tunnel = 2 h\nmax_head = 32k", &[]).expect("good");
    assert_eq!(config.timeouts.client, Duration::from_millis(500));
    assert_eq!(config.timeouts.tunnel, Duration::from_secs(7200));
    assert_eq!(config.max_head, 32 * 1024);
    let busy_poll = |text| build(text, &[]).expect("good").busy_poll;
    assert_eq!(busy_poll("busy_poll = 50us"), Some(Duration::from_micros(50)));
    assert_eq!(busy_poll("busy_poll = 1000 us"), Some(Duration::from_millis(1)));
    assert_eq!(busy_poll("busy_poll = off"), None);
}

#[test]
fn mistakes_are_named() {
    refused("bind *:80", &[], "m.conf:1: \"bind *:80\" is not a setting");
    refused("\nbnd = *:80", &[], "m.conf:2: there is no key \"bnd\": did you mean bind?");
    refused("wibble = 1", &[], "there is no key \"wibble\"");
    refused("bind = 8080", &[], "has no port");
    refused("bind = *:http", &[], "is not a port number");
    refused("bind = example.com:80", &[], "host names are not looked up");
    refused("uid = 1\nuid = 2", &[], "m.conf:2: uid has the value \"1\" already (m.conf:1)");
    refused("timeout_client = 10", &[], "timeout_client: \"10\" has no unit");
    refused("timeout_client = 0s", &[], "expected more than zero");
    refused("timeout_client = 10d", &[], "expected a number with a unit");
    refused("shards = 0", &[], "shards: \"0\"");
    refused("cpus = 3-1", &[], "cpus: \"3-1\"");
    refused("busy_poll = 50", &[], "busy_poll: \"50\": expected off, or 1us to 1000us");
    refused("busy_poll = 0us", &[], "expected off, or 1us");
    refused("busy_poll = 1001us", &[], "expected off, or 1us");
    refused("steer_accepts = 1", &[], "expected true or false");
    refused("max_head = 12", &[], "expected from 1k to 1m");
    refused("uid = -1", &[], "expected a number or a name");
    refused("", &["nonsense"], "-o nonsense: \"nonsense\" is not a setting");
    refused("bind_tcp = *:1", &[], "expected ADDRESS:PORT HOST");
    refused("bind_tcp = *:1 a.com b", &[], "expected accept-proxy or nothing");
    refused(
        "bind_tcp = *:1 a.com https",
        &[],
        "\"https\" behind the address: expected accept-proxy or",
    );
    refused("bind_tls = *:1 https", &[], "\"https\" behind the address: expected accept-proxy or");
    refused("bind = *:1 https https", &[], "\"https\" is there twice");
    refused("bind = *:80 accept_proxy", &[], "expected accept-proxy, https or nothing");
    refused("bind = *:80 accept-proxy", &[], "set trusted_sources");
    refused("bind_tcp = *:80 a.com accept-proxy", &[], "set trusted_sources");
    refused("trusted_sources = 10.0.0.0/33", &[], "as 192.0.2.1, 192.0.2.0/24");
    refused("trusted_sources = lb.example", &[], "as 192.0.2.1, 192.0.2.0/24");
    refused("bind_management = *:8042", &[], "can be reached from other machines");
}

#[test]
fn the_same_value_twice_is_no_mistake() {
    assert!(build("uid = 1\nuid = 1", &[]).is_ok());
}

#[test]
fn all_problems_come_at_once() {
    let problems = build("a\nbind = x\nshards = y", &[]).expect_err("refused");
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn flags_behind_an_address_come_in_any_order() {
    let text = "trusted_sources = 192.0.2.1\nbind = *:80 https accept-proxy\n\
                bind = *:81 accept-proxy https\nbind_internal = *:82 https";
    let config = build(text, &[]).expect("good");
    let flags = |bind: &Bind| (bind.accept_proxy, bind.https);
    assert_eq!(config.bind.iter().map(flags).collect::<Vec<_>>(), [(true, true), (true, true)]);
    assert_eq!(flags(&config.bind_internal[0]), (false, true));
}

#[test]
fn sources_are_networks() {
    let text =
        "trusted_sources = 192.0.2.0/24, 2001:db8::/32 198.51.100.7\nbind = *:80 accept-proxy";
    let config = build(text, &[]).expect("good");
    assert!(config.bind[0].accept_proxy);
    let trusts = |config: &Config, address: &str| {
        let networks = config.trusted_sources.networks.iter();
        let map = NetworkMap::new(networks.map(|network| (*network, ())));
        map.get(address.parse().expect("an address")).is_some()
    };
    for address in
        ["192.0.2.0", "192.0.2.255", "2001:db8:ffff::1", "198.51.100.7", "::ffff:192.0.2.1"]
    {
        assert!(trusts(&config, address), "{address}");
    }
    for address in ["192.0.3.0", "198.51.100.8", "2001:db9::1", "c000:0200::"] {
        assert!(!trusts(&config, address), "{address}");
    }
    let all = build("trusted_sources = 0.0.0.0/0", &[]).expect("good");
    assert!(trusts(&all, "203.0.113.9"));
}

#[test]
fn lines_of_the_access_log_have_a_style() {
    let style = |text| build(text, &[]).expect("good").log_style;
    let fields = style("access_log_fields = default, rule user_agent").fields;
    for (field, name) in LogField::ALL {
        assert_eq!(fields.has(*field), !["traceparent", "referer"].contains(name), "{name}");
        let key = KEYS.iter().find(|key| key.name == "access_log_fields").expect("the key");
        assert!(key.meaning.contains(name), "{name}");
    }
    let fields = style("access_log_fields = time").fields;
    assert!(fields.has(LogField::Time) && !fields.has(LogField::Client));
    assert_eq!(style("access_log_sample = 1/100").sample.get(), 100);
    refused("access_log_sample = 100", &[], "expected 1/N, as 1/100");
    refused("access_log_sample = 2/100", &[], "expected 1/N, as 1/100");
    refused("access_log_sample = 1/0", &[], "expected 1/N, as 1/100");
    refused("access_log_fields = time, user", &[], "\"user\": expected default or time, client");
    refused("access_log_fields = ,", &[], "expected at least one field");
    refused("access_log_format = clf", &[], "expected json or combined");
    refused("access_log_query = perhaps", &[], "expected true or false");
}

#[test]
fn health_checks_have_a_path() {
    let config = build("health_path = /-/ok\ntimeout_unhealthy = 10s", &[]).expect("good");
    assert_eq!(config.health_path.as_deref(), Some("/-/ok"));
    assert_eq!(config.timeouts.unhealthy, Duration::from_secs(10));
    assert!(build("timeout_unhealthy = 0", &[]).is_ok());
    refused("timeout_unhealthy = 10s", &[], "Set health_path");
    refused("health_path = /a\ntimeout_unhealthy = 10", &[], "has no unit");
    refused("health_path = ok", &[], "expected a path without a query");
    refused("health_path = /a?b", &[], "expected a path without a query");
}

#[test]
fn sources_may_be_in_files() {
    let text = "trusted_sources = @/etc/cdn.txt, 192.0.2.1 @b\nbind = *:80 accept-proxy";
    let sources = build(text, &[]).expect("good").trusted_sources;
    assert_eq!(sources.files, [PathBuf::from("/etc/cdn.txt"), PathBuf::from("b")]);
    assert_eq!(sources.networks.len(), 1);
    refused("trusted_sources = @", &[], "expected a path behind @");
    refused("client_field = X Y", &[], "expected the name of a field");
    refused("client_field = Forwarded", &[], "as X-Forwarded-For");
    let field = |text| build(text, &[]).expect("good").client_field;
    assert_eq!(field("client_field = X-Real-IP").as_deref(), Some("X-Real-IP"));
    assert_eq!(field("client_field = none"), None);
}

/// Compares a generated file with what is in the repository; `MANTRID_BLESS=1 cargo test` writes
/// it.
#[track_caller]
fn up_to_date(path: &str, generated: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("MANTRID_BLESS").is_some() {
        std::fs::write(&path, generated).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == generated, "{} is old: MANTRID_BLESS=1 cargo test", path.display());
}

#[test]
fn the_example_file_is_up_to_date_and_valid() {
    let example = example_file();
    up_to_date("systemd/mantrid.conf", &example);
    let uncommented: String = example
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' ') && line.contains(" = ") && !line.ends_with("= "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(uncommented.lines().count() > 10, "{uncommented}");
    assert!(build(&uncommented, &[]).is_ok(), "{:?}", build(&uncommented, &[]));
}

#[test]
fn the_manual_page_has_every_key() {
    let page = manual_page();
    assert!(KEYS.iter().all(|key| page.contains(&key.name.replace('-', "\\-"))), "{page}");
}

#[test]
fn the_manual_is_up_to_date() {
    up_to_date("docs/configuration.md", &manual());
}
