//! What travels with an image because it is about it: signatures, attestations, SBOMs. They are looked for once the
//! image is at a target, in one job an image at the source: the root and its children that are copied, then what is found
//! itself. Where a place does not list referrers, a tag does. What is found becomes images of the same run. Not here: how
//! these are copied (`image.rs`).

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError};

use super::filter::{Left, filter};
use super::graph::Graph;
use super::image::{Had, Image, ImageId, List, Subject, Target as ImageTarget, TargetState};
use super::job::{Job, Reply};
use super::parts::MAX_DEPTH;
use super::places::Tags;
use super::plan::{Claim, Plan};
use super::task::{Failure, Kind, State};
use super::worker::Worker;
use crate::oci::{Digest, Kind as ManifestKind, Manifest, PlatformFilter, Reference, Tag};
use crate::store::{Class, Place, Presence, Source, StoreError};

/// Something about an image, in the image's repository.
#[derive(Clone, Debug)]
pub(super) struct Referrer {
    pub(super) name: Reference,
    /// Which manifest it is about, where it is listed under that; `None` of cosign's tags.
    pub(super) subject: Option<Digest>,
}

/// What is known of an image's referrers in this pass.
pub(super) enum Lookup {
    NotAsked,
    Asked,
    Known(Arc<[Referrer]>),
}

/// The image whose referrers are looked for.
#[derive(Clone)]
pub(super) enum Root {
    Held(Arc<Manifest>),
    /// It has no children.
    Single(Digest),
    /// It is read by this digest.
    Named(Digest),
    /// The same, of the source; only these platforms of the index were copied.
    Sparse(Digest, Arc<PlatformFilter>),
}

/// A search, complete in itself.
pub(super) struct Search {
    pub(super) source: Place,
    /// A target that has the image: what it is made of is read there, to spare the source.
    pub(super) holder: Place,
    pub(super) root: Root,
    pub(super) tags: Arc<HashSet<Tag>>,
}

impl Graph<'_> {
    /// Has the referrers of an image looked for once it is at a target, and settles that target when they are known.
    pub(super) fn find_referrers(&mut self, image: ImageId) {
        let targets = self.images[image].targets.iter().enumerate();
        let held: Vec<_> = targets
            .filter_map(|(index, target)| match target.state {
                TargetState::Arrived(outcome) => Some((index, outcome)),
                _ => None,
            })
            .collect();
        if held.is_empty() {
            return;
        }
        match self.images[image].referrers {
            Lookup::Asked => {}
            Lookup::Known(_) => {
                for (index, outcome) in held {
                    self.conclude(image, index, TargetState::Done(outcome));
                }
            }
            Lookup::NotAsked => {
                let (source, order) = (self.images[image].source, self.images[image].order);
                match &self.places[source].tags {
                    Tags::Unknown | Tags::Asked | Tags::AskedAgain => self.list_for(source, image),
                    Tags::Failed(failure) => {
                        let failure = failure.clone();
                        for (index, _) in held {
                            self.fail_target(image, index, &failure);
                        }
                    }
                    Tags::Listed(..) | Tags::Missing => {
                        self.images[image].referrers = Lookup::Asked;
                        self.add_task(Kind::Referrers(image), order, State::Ready);
                    }
                }
            }
        }
    }

    pub(super) fn start_search(&self, image: ImageId, reply: Reply) -> Option<Job> {
        let row = &self.images[image];
        let mut targets = row.targets.iter();
        let holder = targets.find(|target| matches!(target.state, TargetState::Arrived(_)))?;
        let root = match (row.manifest(), row.digests()?, &row.wanted) {
            (Some(manifest), ..) => Root::Held(manifest),
            (None, (digest, _), _) if row.kind == Some(ManifestKind::Image) => {
                Root::Single(digest.clone())
            }
            (None, (_, source), Some(wanted)) if wanted.is_sparse() => {
                Root::Sparse(source.clone(), wanted.clone())
            }
            (None, (digest, _), _) => Root::Named(digest.clone()),
        };
        let tags = match &self.places[row.source].tags {
            Tags::Listed(tags, _) => tags.clone(),
            _ => Arc::default(),
        };
        Some(Job::Referrers {
            reply,
            search: Search {
                source: self.places[row.source].place.clone(),
                holder: self.places[holder.place].place.clone(),
                root,
                tags,
            },
        })
    }

    pub(super) fn referrers_known(&mut self, image: ImageId, found: Vec<Referrer>) {
        self.images[image].referrers = Lookup::Known(found.into());
        self.consider(image);
    }

    /// They could not be had in this pass: the image is not what was asked for.
    pub(super) fn referrers_failed(&mut self, image: ImageId, failure: &Arc<Failure>) {
        self.images[image].referrers = Lookup::NotAsked;
        for index in 0..self.images[image].targets.len() {
            if matches!(
                self.images[image].target(index).state,
                TargetState::Arrived(_)
            ) {
                self.fail_target(image, index, failure);
            }
        }
        self.consider(image);
    }
}

impl Plan {
    /// What is about an image goes where the image has gone. What another rule or image brings there is left to that.
    pub(super) fn add_referrers(&mut self, image: ImageId, index: usize, graph: &mut Graph<'_>) {
        let row = &graph.images[image];
        let (source, target) = (row.source, row.target(index));
        let Lookup::Known(found) = &row.referrers else {
            return;
        };
        if !target.with_referrers || target.place == source {
            return;
        }
        let (place, rule, is_forced) = (target.place, target.rule, target.is_forced);
        for referrer in found.clone().iter() {
            let at = (place, referrer.name.clone());
            if let Some(claim) = self.claims.get(&at) {
                let known = self.referrers.get(&(source, referrer.name.clone()));
                let mut targets = known
                    .iter()
                    .flat_map(|&&known| &graph.images[known].targets);
                // What several sources have under a tag of cosign's comes together there.
                let joins =
                    referrer.subject.is_none() && graph.images[claim.image].subject.is_some();
                if !joins || targets.any(|target| target.place == place) {
                    continue;
                }
            }
            let known = self.referrers.entry((source, referrer.name.clone()));
            let new = *known.or_insert_with(|| {
                let mut new = Image::new(source, referrer.name.clone(), None, None);
                let lists = referrer.subject.clone();
                new.subject = Some(Box::new(Subject { lists, image }));
                graph.images.push(new)
            });
            let targets = &mut graph.images[new].targets;
            let is_queued = targets.iter().any(ImageTarget::is_waiting);
            self.claims.entry(at).or_insert(Claim {
                image: new,
                index: targets.len(),
            });
            targets.push(ImageTarget {
                place,
                name: referrer.name.clone(),
                list: List::Spared,
                rule,
                had: Had::Another,
                is_forced,
                with_referrers: false,
                state: TargetState::Waiting,
            });
            graph.counts.images += 1;
            if let Some(state) = self.states.get_mut(rule) {
                state.open_pairs += 1;
            }
            if !is_queued {
                self.offer(new, graph);
            }
        }
    }

    /// What an image has to wait for that is fed by another one and takes its referrers along: one of these that is still
    /// on its way. When there is none left, the tags are those that are there now.
    pub(super) fn open_referrer(
        &self,
        fed: ImageId,
        (feeder, index): (ImageId, usize),
        graph: &mut Graph<'_>,
    ) -> Option<(ImageId, usize)> {
        let row = &graph.images[feeder];
        let (target, Lookup::Known(found)) = (row.target(index), &row.referrers) else {
            return None;
        };
        let mut wishes = graph.images[fed].targets.iter();
        if found.is_empty() || !wishes.any(|target| target.with_referrers) {
            return None;
        }
        let place = target.place;
        let mut claims = found.iter().filter_map(|referrer| {
            let claim = self.claims.get(&(place, referrer.name.clone()))?;
            Some((claim.image, claim.index))
        });
        let is_open = |&(image, index): &(ImageId, usize)| {
            !graph.images[image].target(index).state.is_settled()
        };
        let open = claims.find(is_open);
        let tags = &mut graph.places[place].tags;
        if open.is_none() && !matches!(tags, Tags::Asked) {
            *tags = Tags::Unknown;
        }
        open
    }
}

impl Worker<'_> {
    /// Everything about an image and about what is found, each once.
    pub(super) fn find(&self, search: &Search) -> Result<Vec<Referrer>, StoreError> {
        let source = self.stores.open(&search.source);
        let holder = self.stores.open(&search.holder);
        // What a dry run would have put is at the source alone; and for what goes wrong the source is held responsible.
        let read = |digest: &Digest| {
            let reference = Reference::from(digest.clone());
            let held = holder.manifest(&reference);
            held.or_else(|_| source.manifest(&reference))
        };
        let mut seen = HashSet::new();
        let mut subjects = VecDeque::new();
        let mut tell = |digest: &Digest| {
            if seen.insert(digest.clone()) {
                subjects.push_back((digest.clone(), 0));
            }
        };
        match &search.root {
            Root::Single(digest) => tell(digest),
            Root::Held(root) => images(root, &read, 0, &mut tell)?,
            Root::Named(digest) => images(&read(digest)?, &read, 0, &mut tell)?,
            Root::Sparse(digest, wanted) => {
                let root = source.manifest(&Reference::from(digest.clone()))?;
                if let Left::Some { manifest, .. } = filter(&*source as &dyn Source, root, wanted)?
                {
                    images(&manifest, &read, 0, &mut tell)?;
                }
            }
        }
        let mut found = Vec::new();
        while let Some((subject, depth)) = subjects.pop_front() {
            let cosign = COSIGN.iter().map(|suffix| Tag::of_digest(&subject, suffix));
            found.extend(
                cosign
                    .filter(|tag| search.tags.contains(tag))
                    .map(|tag| Referrer {
                        name: Reference::Tag(tag),
                        subject: None,
                    }),
            );
            let listed = list(&*source as &dyn Source, &subject, |tag| {
                search.tags.contains(tag)
            })?;
            for digest in listed {
                if !seen.insert(digest.clone()) {
                    continue;
                }
                if depth >= MAX_DEPTH || found.len() >= MAX_FOUND {
                    let text = format!(
                        "there are more than {MAX_FOUND}, or more than {MAX_DEPTH} of one another"
                    );
                    return Err(StoreError::new(Class::Permanent, text));
                }
                subjects.push_back((digest.clone(), depth + 1));
                found.push(Referrer {
                    name: digest.into(),
                    subject: Some(subject.clone()),
                });
            }
        }
        Ok(found)
    }

    /// Whether a place lists a referrer under its subject: then it has it, too. It is asked once for all of them.
    pub(super) fn is_listed(
        &self,
        place: &Place,
        subject: &Digest,
        referrer: &Digest,
    ) -> Result<Presence, StoreError> {
        let own = self.own.lock(place, &Tag::of_digest(subject, ""));
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = match own.take() {
            Some(listed) => listed,
            None => list(&*self.stores.open(place) as &dyn Source, subject, |_| true)?,
        };
        let is_listed = listed.contains(referrer);
        *own = Some(listed);
        Ok(if is_listed {
            Presence::Present(referrer.clone(), None)
        } else {
            Presence::Absent
        })
    }
}

/// Tells the digests of an image and of all images in it.
fn images(
    manifest: &Manifest,
    read: &dyn Fn(&Digest) -> Result<Manifest, StoreError>,
    depth: u8,
    tell: &mut dyn FnMut(&Digest),
) -> Result<(), StoreError> {
    tell(manifest.digest());
    for child in manifest.children() {
        if child.is_index() && depth < MAX_DEPTH {
            images(&read(&child.digest)?, read, depth + 1, tell)?;
        } else {
            tell(&child.digest);
        }
    }
    Ok(())
}

/// The referrers of a manifest, from where the place lists them. `is_there` tells of tags that need not be asked for.
fn list(
    store: &dyn Source,
    subject: &Digest,
    is_there: impl Fn(&Tag) -> bool,
) -> Result<Vec<Digest>, StoreError> {
    if let Some(listed) = store.referrers(subject)? {
        return Ok(listed);
    }
    let tag = Tag::of_digest(subject, "");
    if !is_there(&tag) {
        return Ok(Vec::new());
    }
    let index = index(store, &tag)?;
    let listed = index.iter().flat_map(Manifest::children);
    Ok(listed.map(|child| child.digest.clone()).collect())
}

/// The index under a tag; `None` where there is none.
pub(super) fn index(store: &dyn Source, tag: &Tag) -> Result<Option<Manifest>, StoreError> {
    let Some(manifest) = named(store, tag)? else {
        return Ok(None);
    };
    if manifest.kind() == ManifestKind::Index {
        return Ok(Some(manifest));
    }
    let text = format!("the tag {tag} is to list referrers and is no index: delete it");
    Err(StoreError::new(Class::Permanent, text))
}

/// What a tag names; `None` where there is no such tag.
pub(super) fn named(store: &dyn Source, tag: &Tag) -> Result<Option<Manifest>, StoreError> {
    match store.manifest(&Reference::Tag(tag.clone())) {
        Err(error) if error.class == Class::NotFound => Ok(None),
        manifest => manifest.map(Some),
    }
}

/// What cosign puts under tags of its own.
const COSIGN: [&str; 3] = [".sig", ".att", SBOM];
pub(super) const SBOM: &str = ".sbom";
/// Referrers of one image, with those of its children and those of one another.
const MAX_FOUND: usize = 1000;
