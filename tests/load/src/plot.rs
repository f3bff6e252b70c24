//! Draws memory and CPU over connections, from what `idle` has saved.

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// What is taken from a file.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Point {
    connections: f64,
    rss_bytes: f64,
    idle_cpu_percent: f64,
}

/// Reads reports and writes an SVG.
pub(crate) fn plot(reports: &[PathBuf], svg: &Path) -> io::Result<()> {
    let mut points = Vec::new();
    for path in reports {
        let why = |error| io::Error::other(format!("{}: {error}", path.display()));
        points.push(serde_json::from_slice::<Point>(&fs::read(path)?).map_err(why)?);
    }
    points.sort_by(|one, other| one.connections.total_cmp(&other.connections));
    let mut out = String::new();
    draw(&points, &mut out).map_err(io::Error::other)?;
    fs::write(svg, out)
}

fn draw(points: &[Point], out: &mut String) -> fmt::Result {
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="760" height="300" viewBox="0 0 760 300"
  font-family="sans-serif" font-size="12" fill="#333">
<rect width="760" height="300" fill="#fff"/>"##
    )?;
    let series = |of: fn(&Point) -> f64| points.iter().map(|p| (p.connections, of(p))).collect();
    chart(out, 60.0, "resident memory, MiB", series(|point| point.rss_bytes / f64::from(1 << 20)))?;
    let title = "CPU while idle, % of a core";
    chart(out, 440.0, title, series(|point| point.idle_cpu_percent))?;
    writeln!(out, "</svg>")
}

/// One chart, with its left end at `left`.
fn chart(out: &mut String, left: f64, title: &str, values: Vec<(f64, f64)>) -> fmt::Result {
    let most = |of: fn(&(f64, f64)) -> f64| ceiling(values.iter().map(of).fold(0.0, f64::max));
    let (most_x, most_y) = (most(|value| value.0), most(|value| value.1));
    let x = |value: f64| left + value / most_x * WIDTH;
    let y = |value: f64| BOTTOM - value / most_y * HEIGHT;
    writeln!(out, r#"<text x="{left}" y="24" font-size="14">{title}</text>"#)?;
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (at_y, at_x) = (y(share * most_y), x(share * most_x));
        writeln!(
            out,
            r##"<path d="M{left} {at_y:.1}h{WIDTH}" stroke="#ddd"/>
<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>
<text x="{at_x:.1}" y="{:.1}" text-anchor="middle">{}</text>"##,
            left - 6.0,
            at_y + 4.0,
            share * most_y,
            BOTTOM + 18.0,
            share * most_x,
        )?;
    }
    let line: Vec<_> = values.iter().map(|v| format!("{:.1},{:.1}", x(v.0), y(v.1))).collect();
    let line = line.join(" ");
    writeln!(out, r##"<polyline points="{line}" fill="none" stroke="#06c" stroke-width="2"/>"##)?;
    for value in &values {
        let (at_x, at_y) = (x(value.0), y(value.1));
        writeln!(out, r##"<circle cx="{at_x:.1}" cy="{at_y:.1}" r="3" fill="#06c"/>"##)?;
    }
    writeln!(
        out,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">connections</text>"#,
        left + WIDTH / 2.0,
        BOTTOM + 36.0
    )
}

/// The next number that an axis can end with.
fn ceiling(value: f64) -> f64 {
    let unit = 10_f64.powf(value.max(1e-9).log10().floor());
    let ends = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    ends.map(|end| end * unit).into_iter().find(|end| *end >= value).unwrap_or(value)
}

const WIDTH: f64 = 290.0;
const HEIGHT: f64 = 200.0;
const BOTTOM: f64 = 245.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_above_its_values() {
        for (value, end) in [(1.0, 1.0), (1.3, 2.0), (95.0, 100.0), (0.41, 0.6)] {
            assert!((ceiling(value) - end).abs() < 1e-9, "{value}: {}", ceiling(value));
        }
    }
}
