//! The results as a picture (SVG 1.1): for each work the times, the requests and the bytes moved of each program, as
//! bars, of the round with the median wall time. Not here: all figures, see `table`.

use crate::course::{Round, Row};
use crate::table::median;
use crate::works::Work;

const WIDTH: usize = 1000;
const MARGIN: usize = 20;
const LINE: usize = 20;
/// Where the first column of bars begins.
const FIRST: f64 = 280.0;
/// From one column to the next: the longest bar of each work, and its caption to the right of it.
const COLUMN: f64 = 185.0;
/// The length of the longest bar.
const BAR: f64 = 100.0;

/// A column of bars.
struct Panel {
    heading: &'static str,
    figure: fn(&Round) -> f64,
    caption: fn(f64) -> String,
}

const PANELS: [Panel; 4] = [
    Panel {
        heading: "wall time",
        figure: |round| round.spent.wall.as_secs_f64(),
        caption: seconds,
    },
    Panel {
        heading: "CPU time",
        figure: |round| round.spent.cpu.as_secs_f64(),
        caption: seconds,
    },
    Panel {
        heading: "requests",
        figure: |round| round.requests() as f64,
        caption: |requests| format!("{requests}"),
    },
    Panel {
        heading: "read and sent",
        figure: |round| (round.source.read + round.target.sent) as f64 / 1e6,
        caption: |megabytes| format!("{megabytes:.0} MB"),
    },
];

fn seconds(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

/// The columns, and where each begins.
fn panels() -> impl Iterator<Item = (f64, &'static Panel)> {
    let starts = (0..).map(|number| FIRST + COLUMN * f64::from(number));
    starts.zip(&PANELS)
}

/// Draws the results under a title, with lines about the machine below.
pub(crate) fn chart(results: &[(Work, Vec<Row<'_>>)], title: &str, notes: &[String]) -> String {
    let left = MARGIN as f64;
    let mut body = String::new();
    let mut y = MARGIN + LINE;
    text(&mut body, left, y, "title", title);
    y += LINE + LINE / 2;
    for (x, panel) in panels() {
        text(&mut body, x, y, "heading", panel.heading);
    }
    for (work, rows) in results {
        y += LINE + LINE / 2;
        let about = format!("{}: {}", work.name, work.about);
        text(&mut body, left, y, "heading", &about);
        for row in rows {
            let Some(round) = median(row) else { continue };
            y += LINE;
            let mut name = row.name();
            if row.problem().is_some() {
                name += " (failed)";
            }
            text(&mut body, left + 10.0, y, "name", &name);
            let class = if row.program.is_ours() {
                "ours"
            } else {
                "theirs"
            };
            for (x, panel) in panels() {
                let figures = rows.iter().filter_map(median).map(panel.figure);
                let longest = figures.fold(f64::MIN_POSITIVE, f64::max);
                let figure = (panel.figure)(round);
                let width = (figure / longest * BAR).max(1.0);
                body += &format!(
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"{width:.1}\" height=\"14\"/>\n",
                    y - 11
                );
                let caption = (panel.caption)(figure);
                text(&mut body, x + width + 5.0, y, "name", &caption);
            }
        }
    }
    y += LINE;
    for note in notes {
        y += LINE;
        text(&mut body, left, y, "note", note);
    }
    let height = y + MARGIN;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">
<style>
text {{ font-family: sans-serif; font-size: 13px; fill: #24292f; }}
.title {{ font-size: 17px; font-weight: bold; }}
.heading {{ font-weight: bold; }}
.note {{ font-size: 12px; fill: #57606a; }}
.ours {{ fill: #1a7f37; }}
.theirs {{ fill: #afb8c1; }}
</style>
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
{body}</svg>
"##
    )
}

fn text(body: &mut String, x: f64, y: usize, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    *body += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y}\">{words}</text>\n");
}
