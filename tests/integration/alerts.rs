//! The alerts of `docs/alerts.yml`: Prometheus's own tool fires each of them and keeps it quiet.

use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_alert_fires_and_is_quiet_when_it_should() {
    let rules = std::fs::read_to_string(root().join("docs/alerts.yml")).expect("alerts");
    let cases = std::fs::read_to_string(root().join("tests/data/alerts_test.yml")).expect("cases");
    let (quiet, night) = cases.split_once("name: the night").expect("two tests");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut count = 0;
    for alert in alerts.filter_map(|rest| rest.split_whitespace().next()) {
        assert!(night.contains(&format!("alertname: {alert}\n")), "{alert} is never fired");
        count += 1;
    }
    assert!(15 < count && 10 < quiet.matches("alertname: ").count());
    let found = Command::new("promtool").arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        return eprintln!("skipped: no promtool here");
    }
    let mut promtool = Command::new("promtool");
    let ended = promtool.args(["test", "rules", "tests/data/alerts_test.yml"]).current_dir(root());
    let ended = ended.output().expect("promtool");
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("SUCCESS"), "{said}");
}
