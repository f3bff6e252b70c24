//! The page of a trace in a real browser.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use realtime_sim::{plan::Plan, timeline, world};
use serde_json::Value;

/// What somebody does who looks for a line, and what they then see.
const VISIT: &str = r"<script>
const span = () => Number(document.body.dataset.to) - Number(document.body.dataset.from);
const report = {title: document.title, verdict: $('verdict').textContent, whole: span()};
const at = (mark) => {
  const box = canvas.getBoundingClientRect();
  const [clientX, clientY] = [box.left + x(mark[AT]), box.top + y(mark[LANE])];
  return {clientX, clientY, bubbles: true, cancelable: true};
};
canvas.dispatchEvent(new WheelEvent('wheel', {...at(marks[50]), deltaY: -1500}));
report.zoomed = span();
const clicked = marks[50];
canvas.dispatchEvent(new PointerEvent('pointerdown', at(clicked)));
canvas.dispatchEvent(new PointerEvent('pointerup', at(clicked)));
report.clicked = {at: clicked[AT], number: $('number').textContent, line: $('line').textContent};
$('search').value = 'linkup';
$('search').dispatchEvent(new Event('input'));
report.found = $('matches').textContent;
$('search').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));
report.first = {matches: $('matches').textContent, line: $('line').textContent};
canvas.dispatchEvent(new PointerEvent('pointerdown', at(marks[50])));
const away = {...at(marks[50])};
away.clientX += 200;
const before = Number(document.body.dataset.from);
canvas.dispatchEvent(new PointerEvent('pointermove', away));
canvas.dispatchEvent(new PointerEvent('pointerup', away));
report.panned = before - Number(document.body.dataset.from);
$('fit').click();
report.again = span();
document.body.textContent = '';
document.body.dataset.report = encodeURIComponent(JSON.stringify(report));
</script>";

#[test]
fn a_trace_can_be_zoomed_searched_and_clicked_in_a_browser() {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        let found = Command::new(name).arg("--version").stderr(Stdio::null()).output();
        found.is_ok_and(|output| output.status.success())
    };
    let Some(browser) = names.into_iter().find(is_there) else {
        eprintln!("skipped: chromium is not installed");
        return;
    };
    let mut trace = Vec::new();
    let outcome = world::run_traced(&Plan::from_seed(7), Some(&mut trace));
    outcome.verdict.unwrap();
    let trace = String::from_utf8(trace).unwrap();
    let page = timeline::page(&trace).unwrap().replace("</html>", VISIT);

    let report = visit(browser, &page);
    assert_eq!(report["title"], "tier 1, seed 7");
    assert_eq!(report["verdict"], "passed");
    let ns = |name: &str| report[name].as_i64().unwrap();
    assert!(ns("zoomed") < ns("whole") / 5, "{report}");
    assert!(ns("panned") > 0, "{report}");
    assert_eq!(ns("again"), ns("whole"), "{report}");

    // Of things at one moment the first is clicked; all of them are at that moment.
    let line = report["clicked"]["line"].as_str().unwrap();
    let number = 1 + trace.lines().position(|other| other == line).unwrap();
    let of = trace.lines().count();
    assert_eq!(report["clicked"]["number"], format!("line {number} of {of}"));
    let clicked: Value = serde_json::from_str(line).unwrap();
    assert_eq!(clicked["at"], report["clicked"]["at"], "{report}");

    let is_match = |line: &&str| line.to_lowercase().contains("linkup");
    let found = trace.lines().filter(is_match).count();
    assert_eq!(report["found"], format!("{found} lines"));
    assert_eq!(report["first"]["matches"], format!("1 of {found}"));
    assert_eq!(report["first"]["line"].as_str(), trace.lines().find(is_match));
}

/// Opens a page, and gives what its script reports.
fn visit(browser: &str, page: &str) -> Value {
    let folder = Folder::new();
    let file = folder.0.join("page.html");
    fs::write(&file, page).expect("there is room");
    let output = Command::new("timeout")
        .args(["--signal", "KILL", SECONDS_MAX, browser])
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-sync"])
        .args(["--disable-component-update", "--disable-dev-shm-usage", "--dump-dom"])
        .arg("--window-size=1400,900")
        .arg(format!("--user-data-dir={}", folder.0.join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .output()
        .expect("it ran a moment ago");
    let page = String::from_utf8(output.stdout).expect("a page is a text");
    let report = page.split_once("data-report=\"").and_then(|(_, rest)| rest.split_once('"'));
    let errors = String::from_utf8_lossy(&output.stderr);
    let (report, _) = report.unwrap_or_else(|| panic!("the script did not end: {errors}"));
    serde_json::from_slice(&unescaped(report)).expect("the report is JSON")
}

/// Undoes `encodeURIComponent`.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((plain, escape)) = rest.split_once('%') {
        bytes.extend(plain.bytes());
        bytes.push(u8::from_str_radix(&escape[..2], 16).expect("two digits"));
        rest = &escape[2..];
    }
    bytes.extend(rest.bytes());
    bytes
}

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("timeline-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the folder of the build");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The browser's last child may still write into it.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Far above what is needed, since other tests share the cores.
const SECONDS_MAX: &str = "60";
