use super::*;

const PLAN_1: &str = r#"{"version":"0.1.0","tier":1,"plan":"#;

#[track_caller]
fn picture(lines: &[&str]) -> Picture {
    let mut picture = Picture::default();
    for (number, line) in lines.iter().enumerate() {
        picture.add(number, &serde_json::from_str(line).unwrap()).unwrap();
    }
    picture
}

#[test]
fn a_message_is_an_arrow_from_where_and_when_it_left() {
    let line = r#"{"n":0,"at":9,"host":"redis","from":"pod0","left":4,"event":"Tell"}"#;
    let picture = picture(&[line]);
    let (from, to) = ("pod0".to_owned(), "redis".to_owned());
    assert_eq!(picture.arrows, [Arrow { line: 0, from, left: 4, to: to.clone(), at: 9 }]);
    let kind = "event".to_owned();
    assert_eq!(picture.marks, [Mark { line: 0, at: 9, host: to, kind, severity: 0 }]);
}

#[test]
fn a_log_line_is_no_message_whatever_its_fields_are() {
    let line = r#"{"n":0,"at":9,"host":"pod0","level":"WARN","target":"a","log":{"to":"b"}}"#;
    let picture = picture(&[line]);
    assert_eq!(picture.arrows, []);
    assert_eq!((picture.marks[0].kind.as_str(), picture.marks[0].severity), ("log", 1));
}

fn segment(at: u64, message: &str) -> String {
    let ends = r#""src":"1.0.0.1:5","dst":"1.0.0.2:6","protocol":"TCP [0x1]""#;
    let log = format!(r#"{{"message":"{message}",{ends}}}"#);
    format!(r#"{{"n":0,"at":{at},"level":"TRACE","target":"turmoil","log":{log}}}"#)
}

fn host(name: &str, addr: &str) -> String {
    let log = format!(r#"{{"message":"New","nodename":"{name}","addr":"{addr}"}}"#);
    format!(r#"{{"n":0,"at":0,"level":"INFO","target":"turmoil","log":{log}}}"#)
}

#[test]
fn a_segment_that_was_dropped_is_not_taken_for_the_one_that_arrived() {
    let lines = [
        host("pod0", "1.0.0.1"),
        host("redis", "1.0.0.2"),
        segment(10, "Send"),
        segment(20, "Send"),
        segment(20, "Drop"),
        segment(30, "Delivered"),
        segment(40, "Delivered"),
    ];
    let picture = picture(&lines.each_ref().map(String::as_str));
    let ways: Vec<_> = picture.arrows.iter().map(|arrow| (arrow.left, arrow.at)).collect();
    assert_eq!(ways, [(10, 30)]);
}

#[test]
fn faults_of_both_tiers_are_bands_on_those_whom_they_hit() {
    let mut plan = crate::plan::Plan::from_seed(7);
    plan.faults = vec![
        crate::plan::Fault {
            at_ms: 5,
            lasts_ms: 10,
            instance: 1,
            what: crate::plan::Trouble::Freeze,
        },
        crate::plan::Fault {
            at_ms: 6,
            lasts_ms: 1,
            instance: 1,
            what: crate::plan::Trouble::Twice,
        },
    ];
    let plan = serde_json::to_string(&plan).unwrap();
    let picture_1 = picture(&[&format!("{PLAN_1}{plan}}}")]);
    let seen = |band: &Band| (band.name.clone(), band.hosts.join("+"), band.from_ms, band.to_ms);
    let bands: Vec<_> = picture_1.bands.iter().map(seen).collect();
    let band = |name: &str, hosts: &str, from, to| (name.to_owned(), hosts.to_owned(), from, to);
    assert_eq!(bands, [band("Freeze", "pod1", 5, 15), band("Twice", "redis", 6, 7)]);

    let mut plan = crate::tier2::plan::Plan::from_seed(7);
    let (a, b) = ("pod0".to_owned(), "redis".to_owned());
    plan.faults = vec![(3, crate::tier2::plan::Fault::Cut { a, b, ms: 4 })];
    let plan = serde_json::to_string(&plan).unwrap();
    let picture_2 = picture(&[&format!(r#"{{"version":"0.1.0","tier":2,"plan":{plan}}}"#)]);
    let name = r#"Cut { a: "pod0", b: "redis", ms: 4 }"#;
    let bands: Vec<_> = picture_2.bands.iter().map(seen).collect();
    assert_eq!(bands, [band(name, "pod0+redis", 3, 7)]);
}

#[test]
fn hosts_are_ordered_by_what_they_are_and_by_their_numbers() {
    let mut names = ["redis", "pod10", "probe", "client2", "pod9", "cluster", "client11"];
    names.sort_by_cached_key(|name| rank(name));
    assert_eq!(names, ["cluster", "client2", "client11", "pod9", "pod10", "redis", "probe"]);
}

#[test]
fn no_line_can_end_the_script_of_the_page() {
    let line = r#"{"n":0,"at":9,"host":"pod0","event":"</script>"}"#;
    let page = page(line).unwrap();
    assert_eq!(page.matches("</script>").count(), 1);
}

#[test]
fn what_is_no_trace_is_refused_with_the_number_of_the_line() {
    let error = page("{\"n\":0}\nnothing").unwrap_err();
    assert!(error.starts_with("line 2 of the trace: "), "{error}");
}
