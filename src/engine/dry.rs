//! Dry runs: what is told of each rule, and the tags that would be there if anything was written. Not here: the workers,
//! which write nothing then (`worker.rs`), and what the words of a preview are (`report.rs`).

use std::sync::Arc;

use super::blobs::BlobId;
use super::graph::Graph;
use super::image::{Had, Outcome, Target, TargetState};
use super::job::Done;
use super::places::{PlaceId, Tags};
use super::plan::{Claim, Plan};
use super::task::{Kind, TaskId};
use crate::config::Rule;
use crate::oci::Tag;
use crate::report::Preview;
use crate::store::Found;

/// What will be told of a rule in a dry run, without its images yet.
pub(super) fn preview(rule: &Rule) -> Preview {
    let targets = rule.targets.iter().map(|target| target.place.to_string());
    let targets: Vec<String> = targets.collect();
    Preview {
        title: format!(
            "{}: {} -> {}",
            rule.position,
            rule.source,
            targets.join(", ")
        ),
        ..Preview::default()
    }
}

/// Counts an image at one of its targets in the preview of its rule.
pub(super) fn count(preview: &mut Preview, target: &Target) {
    *match &target.state {
        TargetState::Done(Outcome::Unchanged | Outcome::Kept) => &mut preview.equal,
        TargetState::Done(Outcome::Copied) if target.had == Had::Nothing => &mut preview.new,
        TargetState::Done(Outcome::Copied) => &mut preview.changed,
        TargetState::Done(Outcome::Skipped) => &mut preview.skipped,
        _ => &mut preview.failed,
    } += 1;
}

impl Plan {
    /// Of a dry run: tags that other rules would have put into a repository by now.
    pub(super) fn add_brought(&self, place: PlaceId, graph: &mut Graph<'_>) {
        if !graph.is_dry {
            return;
        }
        let would_be_there = |claim: &Claim| {
            let target = graph.images[claim.image].target(claim.index);
            target.place == place && matches!(target.state, TargetState::Done(Outcome::Copied))
        };
        let claims = self.claims.iter();
        let mut brought: Vec<Tag> = claims
            .filter(|(_, claim)| would_be_there(claim))
            .filter_map(|((_, name), _)| name.tag().cloned())
            .collect();
        brought.sort_unstable();
        let tags = &mut graph.places[place].tags;
        if matches!(tags, Tags::Missing) && !brought.is_empty() {
            *tags = Tags::Listed(Arc::default(), Vec::new());
        }
        if let Tags::Listed(known, listed) = tags {
            let known = Arc::make_mut(known);
            brought.retain(|tag| known.insert(tag.clone()));
            listed.append(&mut brought);
        }
    }
}

impl Graph<'_> {
    /// Of a dry run: puts what would be done about a want on the account of the rule that first wanted it.
    pub(super) fn preview(&mut self, task: TaskId, blob: BlobId, done: &Done) {
        if !self.is_dry {
            return;
        }
        let Some(rule) = self.rule_of(task) else {
            return;
        };
        let row = &mut self.blobs[blob];
        if let Some(preview) = self.previews.get_mut(rule) {
            match done {
                Done::BlobFound(Found::Mounted) => preview.mount += row.size,
                Done::BlobSent { .. } => {
                    preview.push += row.size;
                    row.sent_for = rule;
                }
                _ => {}
            }
        }
    }

    /// The same of what would be read for some wants, on the account of the last that it would be sent for.
    pub(super) fn preview_read(&mut self, blob: BlobId, bytes: u64) {
        self.totals.pulled += bytes;
        if let Some(preview) = self.previews.get_mut(self.blobs[blob].sent_for) {
            preview.pull += bytes;
        }
        self.blob_read(blob);
    }

    /// The rule of the first image that waits for a task.
    fn rule_of(&self, mut task: TaskId) -> Option<usize> {
        loop {
            match self.tasks[task].kind {
                Kind::Root(image, target) => return Some(self.images[image].target(target).rule),
                _ => task = *self.tasks[task].dependents.first()?,
            }
        }
    }
}
