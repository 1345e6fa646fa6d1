//! Parts of manifests at their places: what must be there before a manifest is put, and what happens when the target
//! says that something is missing all the same. Not here: how a blob gets there (`blobs.rs`), and reading the children
//! of indexes (`children.rs`).

use std::sync::Arc;

use super::blobs::Doubt;
use super::children::ChildAt;
use super::dates::Date;
use super::graph::Graph;
use super::image::{Had, Outcome};
use super::places::{PlaceId, Tags};
use super::task::{Failure, Kind, State, TaskId};
use crate::oci::{Digest, Manifest};
use crate::store::{Presence, StoreError};

impl Graph<'_> {
    /// Has `parent` wait for all parts of its manifest at its place, and makes it ready when they are there already.
    pub(super) fn require(&mut self, parent: TaskId, manifest: &Manifest) {
        let (place, source, depth, is_forced) = match self.tasks[parent].kind {
            Kind::Root(image, index) => {
                let row = &self.images[image];
                let target = row.target(index);
                (target.place, row.source, 0, target.is_forced)
            }
            Kind::Child(at) => (at.place, at.source, at.depth, at.is_forced),
            _ => return,
        };
        if depth >= MAX_DEPTH && !manifest.children().is_empty() {
            let failure = Failure::for_good(
                format!("copy the index {}", manifest.digest()),
                format!("indexes are nested more than {MAX_DEPTH} deep"),
            );
            return self.fail(parent, &Arc::new(failure));
        }
        let mut failure = None;
        let order = self.tasks[parent].order;
        for child in manifest.children() {
            let key = (place, child.digest.clone());
            if self.holders.has(place, &child.digest) {
                continue;
            }
            let row = self.child(child, source);
            if !self.parts.contains_key(&key) {
                self.children[row].tasks += 1;
                let at = ChildAt {
                    child: row,
                    place,
                    source,
                    depth: depth + 1,
                    had: None,
                    is_forced,
                };
                let task = self.add_task(Kind::Child(at), order, State::Waiting);
                self.parts.insert(key.clone(), task);
                let is_distrusted = self.doubts.get(&key) == Some(&Doubt::Send);
                if is_forced || is_distrusted || self.is_empty(place) {
                    self.need_child(task, Had::Nothing);
                } else {
                    self.set_ready(task);
                }
            }
            self.depend(parent, &key, &mut failure);
        }
        for blob in manifest.blobs() {
            let key = (place, blob.digest.clone());
            if self.holders.has(place, &blob.digest) {
                continue;
            }
            if self.parts.contains_key(&key) {
                self.add_source(&blob.digest, source);
            } else {
                let task = self.want(blob, place, source, order);
                self.parts.insert(key.clone(), task);
            }
            self.depend(parent, &key, &mut failure);
        }
        if let Some(failure) = failure {
            self.fail(parent, &failure);
        } else if self.tasks[parent].pending == 0 {
            self.parts_there(parent);
        } else {
            self.tasks[parent].state = State::Waiting;
        }
    }

    fn depend(
        &mut self,
        parent: TaskId,
        part: &(PlaceId, Digest),
        failure: &mut Option<Arc<Failure>>,
    ) {
        if let Some(&task) = self.parts.get(part) {
            if let State::Failed(cause) = &self.tasks[task].state {
                failure.get_or_insert_with(|| cause.clone());
            } else {
                self.wait_for(parent, task);
            }
        }
    }

    pub(super) fn wait_for(&mut self, parent: TaskId, part: TaskId) {
        self.tasks[part].dependents.push(parent);
        self.tasks[parent].pending += 1;
    }

    /// A place was asked for a child.
    pub(super) fn child_asked(&mut self, task: TaskId, at: ChildAt, presence: &Presence) {
        let descriptor = &self.children[at.child].descriptor;
        let had = match presence {
            Presence::Present(..) if !descriptor.is_index() => return self.child_done(task, at),
            // It may be sparse: under a tag of its own, or put there by somebody else.
            Presence::Present(..) => Had::This,
            Presence::Absent | Presence::Unknown => Had::Nothing,
        };
        match self.forsaken(task) {
            Some(failure) => {
                self.parts.remove(&(at.place, descriptor.digest.clone()));
                self.fail(task, &failure);
            }
            None => self.need_child(task, had),
        }
    }

    pub(super) fn child_done(&mut self, task: TaskId, at: ChildAt) {
        if at.had.is_some() {
            self.release_child(at.child);
        }
        let digest = self.children[at.child].descriptor.digest.clone();
        self.doubts.remove(&(at.place, digest.clone()));
        self.part_done(task, at.place, &digest);
        self.close_child(at.child);
    }

    /// All parts of a manifest are at its place.
    fn parts_there(&mut self, task: TaskId) {
        match self.tasks[task].kind {
            // What an index called a child was a blob: there is nothing to put.
            Kind::Child(at) if self.children[at.child].is_blob() => self.child_done(task, at),
            Kind::Child(at) if at.had == Some(Had::This) => self.child_done(task, at),
            Kind::Root(image, index) if self.images[image].target(index).had == Had::This => {
                self.finish(task);
                self.root_done(task, image, index, Outcome::Unchanged);
            }
            _ => self.set_ready(task),
        }
    }

    /// Where a task puts a manifest, and which one, if its bytes are held.
    fn manifest_of(&self, task: TaskId) -> Option<(PlaceId, Arc<Manifest>)> {
        match self.tasks[task].kind {
            Kind::Root(image, index) => {
                let row = &self.images[image];
                Some((row.target(index).place, row.manifest()?))
            }
            Kind::Child(at) => Some((at.place, self.children[at.child].manifest()?)),
            _ => None,
        }
    }

    /// A manifest will never be put at its place: gives the parts that nothing else there waits for and that are not under
    /// way. They have to fail with it, and are nobody's any more.
    pub(super) fn abandon(&mut self, parent: TaskId) -> Vec<TaskId> {
        let Some((place, manifest)) = self.manifest_of(parent) else {
            return Vec::new();
        };
        let mut abandoned = Vec::new();
        for part in manifest.children().iter().chain(manifest.blobs()) {
            let key = (place, part.digest.clone());
            if let Some(&task) = self.parts.get(&key)
                && !matches!(self.tasks[task].state, State::Running | State::Failed(_))
                && self.forsaken(task).is_some()
            {
                self.parts.remove(&key);
                abandoned.push(task);
            }
        }
        abandoned
    }

    /// Why all that waited for a part will never be put; `None` where something still waits for it.
    pub(super) fn forsaken(&self, part: TaskId) -> Option<Arc<Failure>> {
        let mut failure = None;
        for &parent in &self.tasks[part].dependents {
            match &self.tasks[parent].state {
                State::Failed(cause) if cause.is_final => failure = Some(cause.clone()),
                _ => return None,
            }
        }
        failure
    }

    /// A blob or child has arrived at its place.
    pub(super) fn part_done(&mut self, task: TaskId, place: PlaceId, digest: &Digest) {
        self.parts.remove(&(place, digest.clone()));
        self.holders.add(place, digest);
        let dependents = std::mem::take(&mut self.tasks[task].dependents);
        let is_lacking = |at: ChildAt| at.had.is_some_and(|had| had != Had::This);
        let was_lacking = matches!(self.tasks[task].kind, Kind::Child(at) if is_lacking(at));
        self.finish(task);
        for dependent in dependents {
            let row = &mut self.tasks[dependent];
            row.pending = row.pending.saturating_sub(1);
            let is_last = row.pending == 0 && matches!(row.state, State::Waiting);
            let had = match &mut row.kind {
                Kind::Root(image, index) => Some(&mut self.images[*image].target_mut(*index).had),
                Kind::Child(at) => at.had.as_mut(),
                _ => None,
            };
            if let Some(had) = had.filter(|had| was_lacking && **had == Had::This) {
                *had = Had::Another;
            }
            if is_last {
                self.parts_there(dependent);
            }
        }
    }

    /// A target that refuses a manifest may lack parts of it, whatever it says (decisions D6): what this run believed
    /// of them is dropped and they are brought again, in two rounds at most. Gives false where that is pointless.
    pub(super) fn heal(&mut self, task: TaskId, error: &StoreError) -> bool {
        let Some(missing) = &error.missing_parts else {
            return false;
        };
        let Some((place, manifest)) = self.manifest_of(task) else {
            return false;
        };
        // The first look is free of charge for every refusal; sending blobs again that the target says it has needs
        // a refusal that names them. Foreign layers that were left out are the cause themselves (protocol.md M9).
        let rounds = self.tasks[task].rounds;
        if rounds >= 2 || (rounds == 1 && missing.is_empty()) || manifest.has_foreign() {
            return false;
        }
        self.tasks[task].rounds += 1;
        let doubt = if rounds == 0 { Doubt::Ask } else { Doubt::Send };
        let named = |digest: &Digest| missing.is_empty() || missing.contains(digest);
        log::info!(
            "{} refused {}: looking for its parts again",
            self.places[place].place,
            manifest.digest()
        );
        for part in manifest
            .children()
            .iter()
            .chain(manifest.blobs())
            .filter(|part| named(&part.digest))
        {
            self.parts.remove(&(place, part.digest.clone()));
            self.holders.remove(place, &part.digest);
            self.doubt(&part.digest, place, doubt);
        }
        self.require(task, &manifest);
        true
    }

    /// Forgets the failures of the last pass, but for those that are final. Nothing is under way.
    pub(super) fn forget_failures(&mut self) {
        let tasks = &self.tasks;
        self.parts.retain(|_, task| match &tasks[*task].state {
            State::Failed(failure) => failure.is_final,
            _ => true,
        });
        for place in self.places.iter_mut() {
            if matches!(&place.tags, Tags::Failed(failure) if !failure.is_final) {
                place.tags = Tags::Unknown;
            }
        }
        for row in self.dates.rows.iter_mut() {
            if matches!(&row.date, Date::Failed(failure) if !failure.is_final) {
                row.date = Date::Unknown;
            }
        }
        for child in self.children.iter_mut() {
            child.tasks = 0;
        }
        self.forget_source_failures();
    }
}

/// Indexes may be nested this deep (decisions D8).
pub(super) const MAX_DEPTH: u8 = 16;
