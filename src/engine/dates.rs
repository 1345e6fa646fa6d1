//! When the images behind tags were made, for rules that choose by it. Each tag is asked for its digest, and what that
//! says is read once ever: the records keep it. Not here: what is left of a rule then (`form.rs`), and the reading
//! (`worker.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::arena::{Arena, Id};
use super::graph::{Graph, News};
use super::places::PlaceId;
use super::task::{Failure, Kind, State};
use crate::config::{Choice, TagFilter};
use crate::oci::{Digest, Tag};

pub(super) type DateId = Id<DateRow>;

/// What is to be known of one tag of a source.
pub(super) struct DateRow {
    pub(super) source: PlaceId,
    pub(super) tag: Tag,
    pub(super) date: Date,
}

pub(super) enum Date {
    /// Nobody has asked in this pass.
    Unknown,
    /// The question waits or is under way.
    Asked,
    /// The answer; `None` where the tag has gone.
    Known(Option<Dated>),
    /// It could not be had in this pass.
    Failed(Arc<Failure>),
}

/// The image behind a tag.
#[derive(Clone, Debug)]
pub(super) struct Dated {
    pub(super) digest: Digest,
    /// `None` where it does not say.
    pub(super) created: Option<SystemTime>,
}

/// All dates that were asked for, and the one that they are compared with.
pub(super) struct Dates {
    pub(super) rows: Arena<DateRow>,
    ids: HashMap<(PlaceId, Tag), DateId>,
    now: SystemTime,
}

impl Dates {
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            rows: Arena::new(),
            ids: HashMap::new(),
            now,
        }
    }
}

impl Graph<'_> {
    /// The row of a tag, made at its first mention.
    pub(super) fn date(&mut self, source: PlaceId, tag: &Tag) -> DateId {
        let Dates { rows, ids, .. } = &mut self.dates;
        *ids.entry((source, tag.clone())).or_insert_with(|| {
            rows.push(DateRow {
                source,
                tag: tag.clone(),
                date: Date::Unknown,
            })
        })
    }

    /// The image behind a tag, where that was asked for and is there.
    pub(super) fn dated(&self, source: PlaceId, tag: &Tag) -> Option<&Dated> {
        let id = self.dates.ids.get(&(source, tag.clone()))?;
        match &self.dates.rows[*id].date {
            Date::Known(dated) => dated.as_ref(),
            Date::Unknown | Date::Asked | Date::Failed(_) => None,
        }
    }

    /// Chooses among the tags of a source, or says why the dates that this needs could not be had.
    pub(super) fn choose(
        &self,
        source: PlaceId,
        filter: &TagFilter,
        tags: &[Tag],
    ) -> Result<Choice, Failure> {
        let mut created = HashMap::new();
        let candidates = filter.candidates(tags);
        for tag in candidates.filter(|_| filter.needs_dates()) {
            let id = self.dates.ids.get(&(source, tag.clone()));
            match id.map(|id| &self.dates.rows[*id].date) {
                Some(Date::Failed(failure)) => return Err(Failure::clone(failure)),
                Some(Date::Known(Some(image))) => {
                    created.extend(image.created.map(|time| (tag.clone(), time)));
                }
                _ => {}
            }
        }
        Ok(filter.select(tags, &created, self.dates.now))
    }

    /// Asks for a date.
    pub(super) fn ask_date(&mut self, date: DateId, order: u32) {
        self.add_task(Kind::Date(date), order, State::Ready);
    }

    /// A date was asked for, and this is what came of it.
    pub(super) fn date_known(&mut self, id: DateId, date: Date) {
        self.dates.rows[id].date = date;
        self.news.push(News::Dated(self.dates.rows[id].source));
    }
}
