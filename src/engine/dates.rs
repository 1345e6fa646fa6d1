//! When the images behind tags were made, for rules that choose by it. Each tag is asked for its digest, and what that
//! says is read once ever: the records keep it. Not here: which tags are wanted (`plan.rs`), and the reading
//! (`worker.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::arena::Id;
use super::graph::{Graph, News};
use super::places::PlaceId;
use super::task::{Failure, Kind, State};
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

impl Graph<'_> {
    /// The row of a tag, made at its first mention.
    pub(super) fn date(&mut self, source: PlaceId, tag: &Tag) -> DateId {
        let dates = &mut self.dates;
        *self
            .date_ids
            .entry((source, tag.clone()))
            .or_insert_with(|| {
                dates.push(DateRow {
                    source,
                    tag: tag.clone(),
                    date: Date::Unknown,
                })
            })
    }

    /// The image behind a tag, where that was asked for and is there.
    pub(super) fn dated(&self, source: PlaceId, tag: &Tag) -> Option<&Dated> {
        let id = self.date_ids.get(&(source, tag.clone()))?;
        match &self.dates[*id].date {
            Date::Known(dated) => dated.as_ref(),
            Date::Unknown | Date::Asked | Date::Failed(_) => None,
        }
    }

    /// When the images behind tags were made, as far as they say; or why that could not be found out.
    pub(super) fn dates_of<'a>(
        &self,
        source: PlaceId,
        tags: impl Iterator<Item = &'a Tag>,
    ) -> Result<HashMap<Tag, SystemTime>, Failure> {
        let mut dates = HashMap::new();
        for tag in tags {
            let id = self.date_ids.get(&(source, tag.clone()));
            match id.map(|id| &self.dates[*id].date) {
                Some(Date::Failed(failure)) => return Err(Failure::clone(failure)),
                Some(Date::Known(Some(image))) => {
                    dates.extend(image.created.map(|time| (tag.clone(), time)));
                }
                _ => {}
            }
        }
        Ok(dates)
    }

    /// Asks for a date.
    pub(super) fn ask_date(&mut self, date: DateId, order: u32) {
        self.add_task(Kind::Date(date), order, State::Ready);
    }

    /// A date was asked for, and this is what came of it.
    pub(super) fn date_known(&mut self, id: DateId, date: Date) {
        self.dates[id].date = date;
        self.news.push(News::Dated(self.dates[id].source));
    }
}
