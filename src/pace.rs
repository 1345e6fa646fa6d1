//! The one factor on all waits and time limits: 1 but in tests, which cannot wait for minutes and must not change what
//! they test (CONTRIBUTING.md). Not here: the waits and limits themselves.

use std::sync::OnceLock;
use std::time::Duration;

/// What every wait and limit is multiplied by: `IMAGE_SYNCER_TIME_SCALE`, from 0 to 1.
pub(crate) fn scale() -> f64 {
    static SCALE: OnceLock<f64> = OnceLock::new();
    *SCALE.get_or_init(|| {
        let given = std::env::var("IMAGE_SYNCER_TIME_SCALE").ok();
        let scale = given.and_then(|text| text.parse().ok());
        scale
            .filter(|scale| (0.0..=1.0).contains(scale))
            .unwrap_or(1.0)
    })
}

/// A wait as it is in this process.
pub(crate) fn scaled(time: Duration) -> Duration {
    time.mul_f64(scale())
}

/// A limit of what others do in time: it is scaled too, but not to less than a busy machine needs.
pub(crate) fn limit(time: Duration) -> Duration {
    scaled(time).max(SHORTEST_LIMIT.min(time))
}

const SHORTEST_LIMIT: Duration = Duration::from_millis(400);
