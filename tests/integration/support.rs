//! `mantrid-client support`: a folder of facts with no secret in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::Setup;
use crate::guard::{TOKEN, with_token};
use crate::management::Call;

fn call(socket: &Path, token: &str, arguments: &[&str]) -> Call {
    let socket = socket.display().to_string();
    Call::new(&[&["--socket", &socket], arguments].concat()).env("MANTRID_TOKEN", token)
}

#[test]
fn a_folder_of_facts_has_no_secrets() {
    let setup = with_token(TOKEN.as_bytes());
    let tokens = setup.path("tokens");
    fs::write(&tokens, "shop admin shop-secret-1 shop.example\nrita read rita-secret-1\n")
        .expect("tokens");
    fs::set_permissions(&tokens, PermissionsExt::from_mode(0o600)).expect("its mode");
    let setup = setup
        .set("management_tokens_file", tokens.display())
        .set("max_held", 77)
        .rule("a.com", empty(404))
        .rule("b.com", json!(["proxy", {"backends": ["127.0.0.1:9", "127.0.0.2:9"]}, true]))
        .rule("c.com", empty(404));
    let (socket, folder) = (setup.path("management.sock"), setup.path("facts"));
    let shown = folder.display().to_string();
    let daemon = setup.start();
    let admin = format!("Authorization: Bearer {TOKEN}");
    daemon.api().with(&admin).put("/hostname/d.com/", &empty(405));
    for token in ["shop-secret-1", "rita-secret-1"] {
        call(&socket, token, &["support", &shown]).finish().expect(1, &["the "]);
        assert!(!folder.exists());
    }
    let finished = call(&socket, TOKEN, &["support", &shown]).finish();
    finished.expect(0, &[]);
    assert!(finished.out.contains(&shown) && finished.out.contains("look through it"));
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
    assert!(read("version.txt").contains(&format!("mantrid {}", env!("CARGO_PKG_VERSION"))));
    let configuration = read("configuration.txt");
    assert!(configuration.contains("max_held = 77"), "{configuration}");
    assert!(configuration.contains("management_token_file = "), "{configuration}");
    assert!(read("limits.txt").contains("Max open files"));
    assert!(read("metrics.txt").contains("mantrid_rules 4"));
    assert!(read("log.txt").contains("Ready") && read("log.txt").contains("d.com"));
    let rules: Value = serde_json::from_str(&read("rules.json")).expect("JSON");
    assert_eq!(rules["by_action"], json!({"empty": 3, "proxy": 1}));
    assert_eq!((&rules["rules"], &rules["backends"]), (&json!(4), &json!(2)));
    let health: Value = serde_json::from_str(&read("health.json")).expect("JSON");
    assert_eq!(health, json!({"ok": true}));
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a text");
        for secret in [TOKEN, "shop-secret-1", "rita-secret-1"] {
            assert!(!text.contains(secret), "{} tells a token", path.display());
        }
        assert_eq!(path.metadata().expect("it").permissions().mode() & 0o777, 0o600);
        count += 1;
    }
    assert_eq!(count, 9);
    assert_eq!(folder.metadata().expect("it").permissions().mode() & 0o777, 0o700);
    // A folder that exists already is not written over.
    call(&socket, TOKEN, &["support", &shown]).finish().expect(1, &[&shown, "exists"]);
}

#[test]
fn facts_are_those_of_the_configuration_that_was_read_last() {
    let setup = Setup::new().set("max_held", 5);
    let daemon = setup.clone().start();
    let mut api = daemon.api();
    let written = |facts: &Value, key: &str| -> Vec<String> {
        let all = facts["configuration"].as_array().expect("a list");
        let of_key = all.iter().filter(|pair| pair[0] == key);
        of_key.map(|pair| pair[1].as_str().expect("a value").to_owned()).collect()
    };
    let facts = api.get("/support");
    assert_eq!(written(&facts, "max_held"), ["5"]);
    assert_eq!(written(&facts, "bind"), ["127.0.0.1:0"]);
    assert_eq!(written(&facts, "access_log"), [] as [String; 0]);
    setup.set("max_held", 6).write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    let facts = api.get("/support");
    assert_eq!(written(&facts, "max_held"), ["6"]);
    let log: Vec<&str> =
        facts["log"].as_array().expect("lines").iter().filter_map(Value::as_str).collect();
    assert!(log.iter().any(|line| line.contains("is in force")), "{log:?}");
}
