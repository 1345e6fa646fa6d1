//! The works that are measured: which images, to how many registries, and how the run goes. Not here: who does them.

use std::time::Duration;

use crate::images::Image;

/// How a work is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Into empty registries.
    Copy,
    /// Once, then again: the second run is measured.
    Again,
    /// Into empty registries, the last of which takes a megabyte a second; it is over when the others have all, and is
    /// measured without that one too.
    Slow,
    /// Until half of the bytes are sent, ended by SIGKILL, then again: the second run is measured. The registry is one
    /// that keeps the part it has got, where there is one.
    Kill,
}

/// A work.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) about: String,
    pub(crate) images: Vec<Image>,
    pub(crate) targets: usize,
    /// Before every request, at the source and at each target.
    pub(crate) delay: Duration,
    /// Of image-syncer.
    pub(crate) workers: usize,
    /// Of the others.
    pub(crate) peer_workers: usize,
    pub(crate) rounds: usize,
    pub(crate) course: Course,
}

/// What the user set.
pub(crate) struct Settings {
    pub(crate) rounds: Option<usize>,
    pub(crate) workers: usize,
    pub(crate) delay: Duration,
    pub(crate) is_quick: bool,
}

/// All works.
pub(crate) fn all(settings: &Settings) -> Vec<Work> {
    let Settings {
        rounds,
        workers,
        delay,
        is_quick,
    } = *settings;
    let (hundred, layer, whole) = if is_quick {
        (10, 2_000_000, 256 << 20)
    } else {
        (100, 20_000_000, 1 << 30)
    };
    let small = |count| -> Vec<Image> {
        let image = |n| Image::new("small/app", &format!("v{n}"), 6, 4, 20_000);
        (1..=count).map(image).collect()
    };
    let medium = |count| -> Vec<Image> {
        let image = |n| Image::new(&format!("medium/app{n}"), "v1", 6, 3, layer);
        (1..=count).map(image).collect()
    };
    let large = || vec![Image::new("large/app", "v1", 1, 0, whole)];
    let work = |name, images, about| Work {
        name,
        about,
        images,
        targets: 1,
        delay: Duration::ZERO,
        workers,
        peer_workers: workers,
        rounds: rounds.unwrap_or(if is_quick { 1 } else { 3 }),
        course: Course::Copy,
    };
    let waiting = format!("each request {} ms later", delay.as_millis());
    let wide = format!("{} workers here, {} there", 8 * workers, 4 * workers);
    let size = format!("{} MB, half of it shared", layer * 6 / 1_000_000);
    let blob = format!("one layer of {} MiB", whole >> 20);
    vec![
        work(
            "small",
            small(hundred),
            format!("{hundred} small images of one repository"),
        ),
        Work {
            delay,
            ..work(
                "delay",
                small(2 * hundred),
                format!("{} small images, {waiting}", 2 * hundred),
            )
        },
        Work {
            delay,
            workers: 8 * workers,
            peer_workers: 4 * workers,
            ..work("wide", small(2 * hundred), format!("the same, {wide}"))
        },
        Work {
            course: Course::Again,
            ..work(
                "unchanged",
                small(hundred),
                format!("{hundred} small images that are there already"),
            )
        },
        work(
            "shared",
            medium(8),
            format!("8 repositories, an image each of {size}"),
        ),
        Work {
            rounds: rounds.unwrap_or(if is_quick { 1 } else { 5 }),
            ..work("large", large(), blob.clone())
        },
        Work {
            targets: 3,
            ..work(
                "fan-out",
                medium(4),
                format!("4 images of {size}, to 3 registries"),
            )
        },
        Work {
            targets: 3,
            course: Course::Slow,
            ..work(
                "slow",
                medium(4),
                "the same, the third takes 1 MB/s: until the others have all".to_owned(),
            )
        },
        Work {
            course: Course::Kill,
            ..work(
                "kill",
                large(),
                format!("{blob}, killed in the middle: the second run"),
            )
        },
    ]
}
