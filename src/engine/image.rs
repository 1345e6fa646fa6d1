//! The way of an image, which is one source and ALL its targets (decisions D4): ask the targets, ask the source or
//! read its manifest, bring the parts where they are lacking, put the tag last. Not here: the parts (`parts.rs`,
//! `blobs.rs`, `children.rs`), and where images come from (`form.rs`).

use std::collections::HashSet;
use std::sync::Arc;

use super::arena::Id;
use super::graph::{Graph, News};
use super::job::{Beside, Job, Reply};
use super::places::{HostId, PlaceId, Tags};
use super::referrers::Lookup;
use super::task::{Failure, Kind, State, TaskId};
use crate::oci::{Digest, Kind as ManifestKind, Manifest, PlatformFilter, Reference};
use crate::records::{MadeOf, Record};
use crate::store::{Place, Presence};

pub(super) type ImageId = Id<Image>;

pub(super) struct Image {
    pub(super) source: PlaceId,
    pub(super) reference: Reference,
    /// Which of its platforms are wanted; `None`: it is copied as it is.
    pub(super) wanted: Option<Arc<PlatformFilter>>,
    pub(super) targets: Vec<Target>,
    /// When it was admitted in this pass.
    pub(super) order: u32,
    /// What is about it.
    pub(super) referrers: Lookup,
    /// What it is about, where it is copied for that.
    pub(super) subject: Option<Box<Subject>>,
    content: Content,
    /// What the source's manifest is, as far as that is known.
    pub(super) kind: Option<ManifestKind>,
    /// A question to the source is under way.
    pub(super) is_asking: bool,
    /// Its manifest was read once more because a blob of the first one was gone (R17).
    is_reread: bool,
}

/// Why an image is copied that no rule names.
#[derive(Clone)]
pub(super) struct Subject {
    /// The manifest that lists it; `None` where it is found by a tag of cosign's.
    pub(super) lists: Option<Digest>,
    /// The image that this belongs to.
    pub(super) image: ImageId,
}

/// One target of an image.
pub(super) struct Target {
    pub(super) place: PlaceId,
    /// What the image is called there.
    pub(super) name: Reference,
    pub(super) list: List,
    /// The number of the rule that asked for it.
    pub(super) rule: usize,
    pub(super) had: Had,
    /// It is not asked what it has: all is put.
    pub(super) is_forced: bool,
    /// It gets what is about the image, too.
    pub(super) with_referrers: bool,
    pub(super) state: TargetState,
}

/// What a target had under the name of an image, or the digest of a child, when it was asked and is to get that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Had {
    Nothing,
    /// Another manifest, or this one without all of its parts.
    Another,
    /// This manifest: only parts of it may be lacking.
    This,
}

/// When the target's tag list is worth its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// At once: it answers for many tags.
    First,
    /// Once the tag is lacking: it tells whether the repository is new, and answers for other tags.
    IfLacking,
    /// Never: the records name all other tags, so the repository is not new.
    Spared,
}

#[derive(Clone, Debug)]
pub(super) enum TargetState {
    /// Not looked at in this pass.
    Waiting,
    /// Being asked for the tag.
    Asking,
    /// It did not answer and will be asked again: nobody waits for it.
    AskingAgain,
    /// It has no such tag, or does not tell.
    Lacks,
    /// The tag is this manifest there.
    Has(Box<Digest>),
    /// The records vouch that it is: asked only where the source is another one.
    Vouched(Box<Digest>),
    /// The manifest's parts and the manifest are on their way: the task that puts it.
    Copying(TaskId),
    /// The image is there, and what is about it is looked for.
    Arrived(Outcome),
    /// In sync.
    Done(Outcome),
    /// Given up for this pass.
    Failed {
        failure: Arc<Failure>,
        /// The source's manifest could not be had: counted once for the image and not for each target.
        at_source: bool,
    },
}

/// How a target came to be in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was.
    Unchanged,
    /// The manifest was put.
    Copied,
    /// The target has it there with more of its own.
    Kept,
    /// The image has no platform that is wanted.
    Skipped,
}

/// What is known of the source's manifest.
pub(super) enum Content {
    Unknown,
    /// A HEAD told its digest, or the rule.
    Named(Box<Digests>),
    /// A HEAD did not tell, or tells nothing more than a GET will.
    Unnamed,
    /// It was read.
    Held {
        manifest: Arc<Manifest>,
        /// In this pass; else the source is asked whether it still is this one.
        is_current: bool,
    },
    /// It was read, and its bytes dropped, since only targets wait for it that cannot be asked for long.
    Dropped(Box<Digests>),
}

/// What a manifest is called. Boxed, since there may be a million images, of which few are under way.
pub(super) struct Digests {
    /// At the source.
    pub(super) source: Digest,
    /// What targets are to have: the same, or what the wanted platforms make of it.
    pub(super) digest: Digest,
}

impl Content {
    /// What a reference alone says: a digest cannot move, so the source is never asked for it.
    fn named_by(reference: &Reference, wanted: Option<&PlatformFilter>) -> Self {
        match (reference, wanted) {
            (Reference::Digest(digest), None) => Self::named((**digest).clone()),
            _ => Self::Unknown,
        }
    }

    pub(super) fn named(digest: Digest) -> Self {
        Self::Named(Box::new(Digests {
            source: digest.clone(),
            digest,
        }))
    }

    /// How many bytes it holds.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Held { manifest, .. } => manifest.bytes().len(),
            Self::Unknown | Self::Named(_) | Self::Unnamed | Self::Dropped(_) => 0,
        }
    }
}

impl Image {
    /// An image of a source. `digest` is what the reference means there now, where that is known.
    pub(super) fn new(
        source: PlaceId,
        reference: Reference,
        wanted: Option<Arc<PlatformFilter>>,
        digest: Option<Digest>,
    ) -> Self {
        let content = match digest {
            Some(digest) if wanted.is_none() => Content::named(digest),
            _ => Content::named_by(&reference, wanted.as_deref()),
        };
        Self {
            source,
            content,
            kind: None,
            reference,
            wanted,
            targets: Vec::new(),
            referrers: Lookup::NotAsked,
            subject: None,
            order: 0,
            is_asking: false,
            is_reread: false,
        }
    }

    /// Of a dry run: another image would have been put where this one is read, so it is read where that one is, and as
    /// much of it, unless this one has a filter of its own.
    pub(super) fn read_as(
        &mut self,
        source: PlaceId,
        reference: Reference,
        wanted: Option<Arc<PlatformFilter>>,
    ) {
        self.source = source;
        self.wanted = self.wanted.take().or(wanted);
        self.content = Content::named_by(&reference, self.wanted.as_deref());
        self.reference = reference;
    }

    /// Target number `index`.
    #[expect(
        clippy::indexing_slicing,
        reason = "indices come from this image's own list, which never shrinks"
    )]
    pub(super) fn target(&self, index: usize) -> &Target {
        &self.targets[index]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "indices come from this image's own list, which never shrinks"
    )]
    pub(super) fn target_mut(&mut self, index: usize) -> &mut Target {
        &mut self.targets[index]
    }

    pub(super) fn manifest(&self) -> Option<Arc<Manifest>> {
        if let Content::Held { manifest, .. } = &self.content {
            Some(manifest.clone())
        } else {
            None
        }
    }

    /// The digest that targets are to have, as far as it is known in this pass.
    pub(super) fn digest(&self) -> Option<&Digest> {
        self.digests().map(|(digest, _)| digest)
    }

    /// The digest that targets are to have, and the one that the source has.
    pub(super) fn digests(&self) -> Option<(&Digest, &Digest)> {
        match &self.content {
            Content::Named(known) | Content::Dropped(known) => Some((&known.digest, &known.source)),
            Content::Held {
                manifest,
                is_current: true,
            } => Some((manifest.digest(), manifest.source_digest())),
            Content::Held {
                is_current: false, ..
            }
            | Content::Unknown
            | Content::Unnamed => None,
        }
    }

    /// What to ask the source for when its manifest is read.
    pub(super) fn get_reference(&self) -> Reference {
        match &self.content {
            Content::Dropped(known) => known.source.clone().into(),
            _ => self.reference.clone(),
        }
    }

    /// Whether all targets have come to an end in this pass.
    pub(super) fn is_settled(&self) -> bool {
        self.targets.iter().all(|target| target.state.is_settled())
    }

    /// The next question to the source, if it is time for one, after targets that are in sync were settled. `is_awaited`
    /// tells of places whose answers are waited for, `head_tells` whether a digest is of use.
    fn question(
        &self,
        is_awaited: impl Fn(PlaceId) -> bool,
        head_tells: impl FnOnce() -> bool,
    ) -> Option<Question> {
        if self.is_asking {
            return None;
        }
        let mut lacks = false;
        let mut waits = false;
        let mut has: Vec<&Digest> = Vec::new();
        for target in &self.targets {
            match &target.state {
                TargetState::Lacks => lacks = true,
                TargetState::Has(digest) | TargetState::Vouched(digest) => has.push(digest),
                TargetState::Waiting | TargetState::Asking => waits |= is_awaited(target.place),
                TargetState::AskingAgain
                | TargetState::Copying(_)
                | TargetState::Arrived(_)
                | TargetState::Done(_)
                | TargetState::Failed { .. } => {}
            }
        }
        let differ = has.windows(2).any(|pair| pair.first() != pair.last());
        let any = lacks || !has.is_empty();
        match &self.content {
            // One target lacks it or two differ: it must be read whatever the others say.
            Content::Unknown if lacks || differ => Some(Question::Get),
            Content::Unknown if any && !waits && !head_tells() => Some(Question::Get),
            Content::Unknown
            | Content::Held {
                is_current: false, ..
            } if any && !waits => Some(Question::Head),
            Content::Unnamed | Content::Named(_) | Content::Dropped(_) if any => {
                Some(Question::Get)
            }
            _ => None,
        }
    }
}

enum Question {
    Head,
    Get,
}

impl Target {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, TargetState::Waiting)
    }
}

impl TargetState {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed { .. })
    }
}

impl Graph<'_> {
    /// Takes up an image: for the first time, or in a new pass.
    pub(super) fn admit(&mut self, image: ImageId, order: u32) {
        self.images[image].order = order;
        self.open_images.insert(image);
        self.consider(image);
    }

    /// Does what the state of an image asks for next. Called whenever something of it has changed.
    pub(super) fn consider(&mut self, image: ImageId) {
        if !self.open_images.contains(&image) {
            return;
        }
        for index in 0..self.images[image].targets.len() {
            if matches!(self.images[image].target(index).state, TargetState::Waiting) {
                self.ask(image, index);
            }
        }
        self.settle_equal(image);
        self.start_roots(image);
        self.find_referrers(image);
        let row = &self.images[image];
        let question = row.question(|place| self.is_awaited(place), || self.head_tells(image));
        if let (Some(Question::Head), Reference::Digest(digest)) = (&question, &row.reference) {
            let digest = (**digest).clone();
            return self.resolved(image, Presence::Present(digest, None));
        }
        if let Some(question) = question {
            let order = row.order;
            self.images[image].is_asking = true;
            let kind = match question {
                Question::Head => Kind::Resolve(image),
                Question::Get => Kind::Get(image),
            };
            self.add_task(kind, order, State::Ready);
        }
        self.close_or_drop(image);
    }

    /// Learns whether a target has the tag: from its tag list where that is known or worth asking, else by a HEAD. The
    /// records' word, where they vouch for it, is enough as long as the source is not known to be another manifest.
    fn ask(&mut self, image: ImageId, index: usize) {
        let row = &self.images[image];
        let order = row.order;
        let target = row.target(index);
        let place = target.place;
        if target.is_forced {
            self.images[image].target_mut(index).state = TargetState::Lacks;
            return;
        }
        let tag = target.name.tag();
        let vouched = tag.and_then(|tag| self.hints.vouched(&self.places[place].place, tag));
        let vouched = vouched.filter(|digest| row.digest().is_none_or(|known| known == *digest));
        let vouched = vouched.filter(|_| self.is_whole(image, index));
        let state = match (&self.places[place].tags, vouched) {
            (Tags::Listed(tags, _), _) if tag.is_some_and(|tag| !tags.contains(tag)) => {
                TargetState::Lacks
            }
            (Tags::Missing, _) => TargetState::Lacks,
            (_, Some(digest)) => TargetState::Vouched(Box::new(digest.clone())),
            (Tags::Unknown | Tags::Asked | Tags::AskedAgain, None)
                if target.list == List::First =>
            {
                return self.list_for(place, image);
            }
            // It will be here as soon as the answer to a HEAD, and may spare that.
            (Tags::Asked, None) if target.list != List::Spared => {
                return self.list_for(place, image);
            }
            (_, None) => TargetState::Asking,
        };
        if matches!(state, TargetState::Asking) {
            self.add_task(Kind::Ask(image, index), order, State::Ready);
        }
        self.images[image].target_mut(index).state = state;
    }

    /// Asks a target whether it has the image under its name; of a referrer, whether it lists it.
    pub(super) fn start_ask(&self, image: ImageId, index: usize, reply: Reply) -> Job {
        let row = &self.images[image];
        let target = row.target(index);
        let place = self.places[target.place].place.clone();
        let subject = row.subject.as_ref();
        let subject = subject.and_then(|subject| subject.lists.clone());
        match (subject, &target.name) {
            (Some(subject), Reference::Digest(referrer)) => Job::IsListed {
                reply,
                place,
                subject,
                referrer: (**referrer).clone(),
            },
            (_, name) => Job::Head {
                reply,
                place,
                reference: name.clone(),
            },
        }
    }

    /// A target has answered for its tag.
    pub(super) fn asked(&mut self, image: ImageId, index: usize, presence: Presence) {
        // The image may have failed at its source meanwhile.
        if !self.is_asked(image, index) {
            return;
        }
        self.images[image].target_mut(index).state = match presence {
            Presence::Present(digest, _) => TargetState::Has(Box::new(digest)),
            Presence::Absent | Presence::Unknown => TargetState::Lacks,
        };
        self.consider(image);
    }

    /// The source has answered which manifest the image is.
    pub(super) fn resolved(&mut self, image: ImageId, presence: Presence) {
        self.images[image].is_asking = false;
        let content = match (presence, self.images[image].manifest()) {
            (Presence::Present(digest, _), Some(manifest))
                if digest == *manifest.source_digest() =>
            {
                Content::Held {
                    manifest,
                    is_current: true,
                }
            }
            (Presence::Present(digest, kind), held) => {
                self.images[image].kind = kind;
                if let Some(manifest) = held {
                    log::warn!(
                        "{} moved from {} to {digest} meanwhile",
                        self.image_source(image),
                        manifest.source_digest()
                    );
                }
                self.named(image, digest)
            }
            // Some registries answer a HEAD with 404 where a GET works (protocol.md E15).
            (Presence::Absent | Presence::Unknown, _) => Content::Unnamed,
        };
        self.set_content(image, content);
        self.consider(image);
    }

    /// The source's manifest was read.
    pub(super) fn got(&mut self, image: ImageId, manifest: Arc<Manifest>) {
        let row = &mut self.images[image];
        row.is_asking = false;
        row.kind = Some(manifest.kind());
        if let Content::Named(known) = &row.content
            && known.source != *manifest.source_digest()
        {
            let source = known.source.clone();
            log::warn!(
                "{} moved from {source} to {} meanwhile",
                self.image_source(image),
                manifest.source_digest()
            );
        }
        let content = Content::Held {
            manifest,
            is_current: true,
        };
        self.set_content(image, content);
        self.consider(image);
    }

    fn set_content(&mut self, image: ImageId, content: Content) {
        self.held_bytes += content.held_bytes();
        let before = std::mem::replace(&mut self.images[image].content, content);
        self.held_bytes -= before.held_bytes();
    }

    /// Targets that have the source's manifest are done. Where the records vouch for another one, it is time to ask.
    fn settle_equal(&mut self, image: ImageId) {
        let Some(digest) = self.images[image].digest().cloned() else {
            return;
        };
        for index in 0..self.images[image].targets.len() {
            match &self.images[image].target(index).state {
                TargetState::Has(has) | TargetState::Vouched(has)
                    if **has == digest && self.is_whole(image, index) =>
                {
                    self.settle(image, index, TargetState::Done(Outcome::Unchanged));
                }
                TargetState::Vouched(_) => {
                    self.images[image].target_mut(index).state = TargetState::Waiting;
                    self.ask(image, index);
                }
                _ => {}
            }
        }
    }

    /// Targets that lack the source's manifest get it, once all that are awaited have answered whether they lack it
    /// and whether their repository is new: so their blobs go to all of them in one stream.
    fn start_roots(&mut self, image: ImageId) {
        let Content::Held {
            manifest,
            is_current: true,
        } = &self.images[image].content
        else {
            return;
        };
        let manifest = manifest.clone();
        let order = self.images[image].order;
        let targets = 0..self.images[image].targets.len();
        let mut waits = false;
        for index in targets.clone() {
            let place = self.images[image].target(index).place;
            if self.lacks_list(image, index) {
                self.list_for(place, image);
            }
            let is_open = matches!(
                self.images[image].target(index).state,
                TargetState::Waiting | TargetState::Asking
            );
            waits |= (is_open || self.lacks_list(image, index)) && self.is_awaited(place);
        }
        if waits {
            return;
        }
        for index in targets {
            match self.images[image].target(index).state {
                TargetState::Lacks | TargetState::Has(_) if !self.lacks_list(image, index) => {
                    let root = self.add_task(Kind::Root(image, index), order, State::Waiting);
                    let target = self.images[image].target_mut(index);
                    target.had = match &target.state {
                        TargetState::Has(has) if **has == *manifest.digest() => Had::This,
                        TargetState::Has(_) => Had::Another,
                        _ => Had::Nothing,
                    };
                    target.state = TargetState::Copying(root);
                    self.require(root, &manifest);
                }
                _ => {}
            }
        }
    }

    /// Whether a target lacks the tag and its repository's list is to tell whether that is new.
    fn lacks_list(&self, image: ImageId, index: usize) -> bool {
        let target = self.images[image].target(index);
        matches!(target.state, TargetState::Lacks)
            && self.places[target.place].tags.are_open()
            && target.list != List::Spared
    }

    pub(super) fn start_root(&self, image: ImageId, index: usize, reply: Reply) -> Option<Job> {
        let row = &self.images[image];
        let target = row.target(index);
        let manifest = row.manifest()?;
        let place = self.places[target.place].place.clone();
        let tag = target.name.tag();
        let record = tag.map(|tag| {
            let origin = MadeOf {
                place: &self.places[row.source].place,
                digest: manifest.source_digest(),
                wanted: row.wanted.as_deref(),
            };
            Record::image(&place, tag, manifest.digest(), &origin)
        });
        let beside = match (&row.subject, tag) {
            (Some(subject), None) => subject.lists.clone().map(Beside::Entries),
            (Some(_), Some(tag)) => Some(Beside::Layers(tag.clone())),
            _ => None,
        };
        Some(Job::Put {
            reply,
            place,
            reference: target.name.clone(),
            manifest,
            record,
            beside: beside.unwrap_or(Beside::Nothing),
        })
    }

    /// The manifest of an image was put, or was there with all of its parts.
    pub(super) fn root_done(
        &mut self,
        root: TaskId,
        image: ImageId,
        index: usize,
        outcome: Outcome,
    ) {
        if self.is_copying(root, image, index) {
            self.settle(image, index, TargetState::Done(outcome));
            self.consider(image);
        }
    }

    /// A target could not be asked for its tag.
    pub(super) fn ask_failed(&mut self, image: ImageId, index: usize, failure: &Arc<Failure>) {
        if self.is_asked(image, index) {
            self.fail_target(image, index, failure);
            self.consider(image);
        }
    }

    /// A target did not answer, and a timer runs until it is asked again: the others go on.
    pub(super) fn ask_delayed(&mut self, image: ImageId, index: usize) {
        if self.is_asked(image, index) {
            self.images[image].target_mut(index).state = TargetState::AskingAgain;
            self.consider(image);
        }
    }

    fn is_asked(&self, image: ImageId, index: usize) -> bool {
        matches!(
            self.images[image].target(index).state,
            TargetState::Asking | TargetState::AskingAgain
        )
    }

    /// The manifest of an image, or a part of it, could not be brought to a target in this pass.
    pub(super) fn root_failed(
        &mut self,
        root: TaskId,
        image: ImageId,
        index: usize,
        failure: &Arc<Failure>,
    ) {
        if !self.is_copying(root, image, index) {
            return;
        }
        if failure.not_found && !self.images[image].is_reread {
            self.read_again(image, failure);
        } else {
            self.fail_target(image, index, failure);
        }
        self.consider(image);
    }

    /// The image was replaced and its blobs removed while it was copied: what the tag is now is copied instead, and the
    /// old manifest is put nowhere any more.
    fn read_again(&mut self, image: ImageId, failure: &Arc<Failure>) {
        log::warn!("{} is read again: {failure}", self.image_source(image));
        let row = &mut self.images[image];
        row.is_reread = true;
        row.referrers = Lookup::NotAsked;
        let mut roots = Vec::new();
        for target in &mut row.targets {
            if let TargetState::Copying(root) = target.state {
                target.state = TargetState::Lacks;
                roots.push(root);
            }
        }
        for root in roots {
            self.fail(root, failure);
        }
        self.set_content(image, Content::Unnamed);
    }

    /// Whether `root` is still what a target waits for.
    fn is_copying(&self, root: TaskId, image: ImageId, index: usize) -> bool {
        matches!(self.images[image].target(index).state, TargetState::Copying(current) if current == root)
    }

    pub(super) fn fail_target(&mut self, image: ImageId, index: usize, failure: &Arc<Failure>) {
        self.settle(
            image,
            index,
            TargetState::Failed {
                failure: failure.clone(),
                at_source: false,
            },
        );
    }

    /// The source's manifest could not be had in this pass.
    pub(super) fn source_of_image_failed(&mut self, image: ImageId, failure: &Arc<Failure>) {
        self.images[image].is_asking = false;
        self.fail_image(image, failure, true);
    }

    /// Fails all targets of an image that are not at an end yet.
    pub(super) fn fail_image(&mut self, image: ImageId, failure: &Arc<Failure>, at_source: bool) {
        for index in 0..self.images[image].targets.len() {
            let state = &self.images[image].target(index).state;
            if !state.is_settled() && !matches!(state, TargetState::Arrived(_)) {
                self.settle(
                    image,
                    index,
                    TargetState::Failed {
                        failure: failure.clone(),
                        at_source,
                    },
                );
            }
        }
        self.close_or_drop(image);
    }

    /// Has the coordinator hear of a target that was settled from the beginning.
    pub(super) fn announce(&mut self, image: ImageId, index: usize) {
        self.news.push(News::Settled(image, index));
    }

    pub(super) fn settle(&mut self, image: ImageId, index: usize, state: TargetState) {
        let target = self.images[image].target_mut(index);
        match state {
            TargetState::Done(outcome) if target.with_referrers && outcome != Outcome::Skipped => {
                target.state = TargetState::Arrived(outcome);
            }
            state => self.conclude(image, index, state),
        }
    }

    /// The same where nothing is waited for any more.
    pub(super) fn conclude(&mut self, image: ImageId, index: usize, state: TargetState) {
        self.images[image].target_mut(index).state = state;
        self.announce(image, index);
    }

    /// Lets go of a settled image, and of the bytes of one that waits only for targets that are late.
    fn close_or_drop(&mut self, image: ImageId) {
        let row = &self.images[image];
        if row.is_settled() {
            self.open_images.remove(&image);
            self.late_images.remove(&image);
        } else if self.waits_for_late_targets_only(image) {
            self.late_images.insert(image);
        } else {
            self.late_images.remove(&image);
        }
        let Content::Held { manifest, .. } = &row.content else {
            return;
        };
        // Schema 1 cannot be read by its digest.
        let is_readable = manifest.kind() != ManifestKind::Schema1;
        let wants_no_bytes = |target: &Target| match &target.state {
            TargetState::Done(_) => true,
            TargetState::Failed { failure, .. } => {
                failure.is_final || self.held_bytes > MAX_HELD_BYTES / 2
            }
            TargetState::Asking | TargetState::AskingAgain | TargetState::Waiting => {
                is_readable && self.is_late(target.place)
            }
            TargetState::Lacks
            | TargetState::Has(_)
            | TargetState::Vouched(_)
            | TargetState::Copying(_)
            | TargetState::Arrived(_) => false,
        };
        if row.targets.iter().all(wants_no_bytes) {
            let content = Content::Dropped(Box::new(Digests {
                source: manifest.source_digest().clone(),
                digest: manifest.digest().clone(),
            }));
            self.set_content(image, content);
        }
    }

    /// Lets go of what is known of an image that is in sync everywhere, once all that have to hear of it have; not of what
    /// is about it, for which another rule may wait yet.
    pub(super) fn forget(&mut self, image: ImageId) {
        let row = &mut self.images[image];
        let is_done = |target: &Target| matches!(target.state, TargetState::Done(_));
        if row.targets.iter().all(is_done) {
            row.content = Content::named_by(&row.reference, row.wanted.as_deref());
        }
    }

    /// Readies an image for another pass: only its unfinished targets are taken up, and none that failed for good.
    /// Gives false where there are none.
    pub(super) fn take_up(&mut self, image: ImageId) -> bool {
        let mut any = false;
        let row = &mut self.images[image];
        for target in &mut row.targets {
            if matches!(&target.state, TargetState::Failed { failure, .. } if !failure.is_final) {
                target.state = TargetState::Waiting;
                self.counts.failed -= 1;
                any = true;
            }
        }
        row.referrers = Lookup::NotAsked;
        match &mut row.content {
            Content::Held { is_current, .. } => *is_current = row.reference.tag().is_none(),
            content => *content = Content::named_by(&row.reference, row.wanted.as_deref()),
        }
        any
    }

    /// Whether an image waits for nothing but targets that are late: it does not count as open (architecture.md 3.5).
    fn waits_for_late_targets_only(&self, image: ImageId) -> bool {
        !self.images[image].is_asking
            && self.images[image]
                .targets
                .iter()
                .all(|target| match target.state {
                    TargetState::Waiting | TargetState::Asking => self.is_late(target.place),
                    ref state => state.is_settled(),
                })
    }

    /// Notes that a host is late, or no more, and has the images that wait for it looked at.
    pub(super) fn set_late(&mut self, host: HostId, late: bool) {
        if self.hosts[host].late == late {
            return;
        }
        self.hosts[host].late = late;
        let concerned: HashSet<ImageId> = self
            .open_images
            .iter()
            .copied()
            .filter(|&image| {
                self.images[image]
                    .targets
                    .iter()
                    .any(|target| self.places[target.place].host == host)
            })
            .collect();
        for image in concerned {
            self.consider(image);
        }
    }

    /// The source of an image as messages show it.
    pub(super) fn image_source(&self, image: ImageId) -> String {
        let row = &self.images[image];
        join(&self.places[row.source].place, &row.reference)
    }

    /// A target of an image as messages show it.
    pub(super) fn image_target(&self, image: ImageId, index: usize) -> String {
        let target = self.images[image].target(index);
        join(&self.places[target.place].place, &target.name)
    }
}

/// Bytes of manifests that are held for images: no image is admitted above this. Those that failed are read again in the
/// next pass, where there is half of it already.
pub(super) const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

fn join(place: &Place, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{place}:{tag}"),
        Reference::Digest(digest) => format!("{place}@{digest}"),
    }
}
