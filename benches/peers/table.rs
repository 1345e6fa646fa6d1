//! The results as a table, which can stand in a document as it is. Not here: pictures, see `chart`.

use std::time::Duration;

use crate::course::{Round, Row, Way};
use crate::proxy::Kind;
use crate::works::Work;

const HEADINGS: [&str; 14] = [
    "Work",
    "Program",
    "Wall",
    "CPU",
    "Memory",
    "Requests",
    "Manifests HEAD/GET/PUT",
    "Blobs HEAD/GET",
    "Uploads mount/POST/PATCH/PUT",
    "In flight",
    "Read",
    "Sent",
    "Wall here/there",
    "CPU here/there",
];

/// The results: of each row the round with the median wall time, and the most memory of all rounds. The last two columns
/// compare image-syncer with the program of the line, round by round: the median, the least and the
/// most.
pub(crate) fn table(results: &[(Work, Vec<Row<'_>>)]) -> String {
    let mut lines = vec![HEADINGS.map(ToOwned::to_owned)];
    for (work, rows) in results {
        let ours = rows.iter().find(|row| is_ours(row));
        for row in rows {
            lines.push(line(work, row, ours));
        }
    }
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, &width) in line.iter().zip(&widths) {
            text += &format!("| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            text += &widths
                .map(|width| format!("|{}", "-".repeat(width + 2)))
                .concat();
            text += "|\n";
        }
    }
    text
}

/// Whether this is the row that the others are compared with.
fn is_ours(row: &Row<'_>) -> bool {
    row.program.is_ours() && row.way == Way::Usual
}

fn line(work: &Work, row: &Row<'_>, ours: Option<&Row<'_>>) -> [String; HEADINGS.len()] {
    let mut name = row.name();
    if let Some(problem) = row.problem() {
        name += &format!(" (FAILED: {})", problem.replace('|', "/"));
    }
    let Some(round) = median(row) else {
        return std::array::from_fn(|_| String::new());
    };
    let kinds = |kinds: &[Kind]| {
        let of = |kind| round.source.of(kind) + round.target.of(kind);
        let numbers: Vec<_> = kinds.iter().map(|kind| of(*kind).to_string()).collect();
        numbers.join("/")
    };
    let megabytes = |bytes: u64| format!("{} MB", (bytes + 500_000) / 1_000_000);
    let memory = row.rounds.iter().map(|it| it.spent.memory).max();
    let compared = |what: fn(&Round) -> Duration| match ours {
        Some(ours) if !is_ours(row) => compare(ours, row, what),
        _ => String::new(),
    };
    [
        work.name.to_owned(),
        name,
        format!("{:.2} s", round.spent.wall.as_secs_f64()),
        format!("{:.2} s", round.spent.cpu.as_secs_f64()),
        format!("{:.1} MB", memory.unwrap_or_default() as f64 * 1024.0 / 1e6),
        round.requests().to_string(),
        kinds(&[Kind::HeadManifest, Kind::GetManifest, Kind::PutManifest]),
        kinds(&[Kind::HeadBlob, Kind::GetBlob]),
        kinds(&[
            Kind::Mount,
            Kind::PostUpload,
            Kind::PatchUpload,
            Kind::PutUpload,
        ]),
        format!("{:.1}", round.in_flight()),
        megabytes(round.source.read),
        megabytes(round.target.sent),
        compared(|round| round.spent.wall),
        compared(|round| round.spent.cpu),
    ]
}

/// The round of the median wall time; of an even number, the faster of the two in the middle.
pub(crate) fn median<'a>(row: &'a Row<'_>) -> Option<&'a Round> {
    let mut rounds: Vec<_> = row.rounds.iter().collect();
    rounds.sort_by_key(|round| round.spent.wall);
    rounds.get(rounds.len().checked_sub(1)? / 2).copied()
}

/// Ours against theirs, by pairs of the same round.
fn compare(ours: &Row<'_>, theirs: &Row<'_>, what: fn(&Round) -> Duration) -> String {
    let pairs = ours.rounds.iter().zip(&theirs.rounds);
    let mut ratios: Vec<f64> = pairs
        .map(|(ours, theirs)| what(ours).as_secs_f64() / what(theirs).as_secs_f64())
        .filter(|ratio| ratio.is_finite())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len().saturating_sub(1) / 2);
    match (ratios.first(), median, ratios.last()) {
        (Some(least), Some(median), Some(most)) if least < most => {
            format!("{median:.2} ({least:.2} to {most:.2})")
        }
        (_, Some(median), _) => format!("{median:.2}"),
        _ => String::new(),
    }
}
