//! What a platform filter changes in the way of an image: which digest its targets are to have, when they have all of
//! it, and what is put in place of what the source has. Not here: the filter's work (`filter.rs`).

use std::sync::Arc;

use super::filter::Left;
use super::graph::Graph;
use super::image::{Content, Digests, ImageId, Outcome, TargetState};
use super::task::Failure;
use crate::oci::platform::List;
use crate::oci::{Digest, Manifest, Reference};
use crate::records::Filtered;

impl Graph<'_> {
    /// Whether a digest of the source tells what targets are to have: of an image that is filtered only by the records,
    /// which remember what the same filter made of it.
    pub(super) fn head_tells(&self, image: ImageId) -> bool {
        self.images[image].wanted.is_none() || self.made(image).next().is_some()
    }

    /// What the records say that the source's manifest and this filter made, at each target that has a line: the
    /// digests of both.
    fn made(&self, image: ImageId) -> impl Iterator<Item = (&Digest, &Digest)> {
        let row = &self.images[image];
        let wanted = row.wanted.as_ref().map(ToString::to_string);
        row.targets.iter().filter_map(move |target| {
            let place = &self.places[target.place].place;
            let (made, digest) = self.hints.filtered(place, target.name.tag()?)?;
            (Some(&*made.platforms) == wanted.as_deref()).then_some((&made.source, digest))
        })
    }

    /// The source has this manifest.
    pub(super) fn named(&self, image: ImageId, source: Digest) -> Content {
        if self.images[image].wanted.is_none() {
            return Content::named(source);
        }
        let digest = self.made(image).find(|(from, _)| **from == source);
        match digest.map(|(_, digest)| digest.clone()) {
            Some(digest) => Content::Named(Box::new(Digests { source, digest })),
            None => Content::Unnamed,
        }
    }

    /// Whether a target that has the manifest has all of its parts that are wanted: of a sparse index only the records
    /// tell which that were.
    pub(super) fn is_whole(&self, image: ImageId, index: usize) -> bool {
        let row = &self.images[image];
        let target = row.target(index);
        let place = &self.places[target.place].place;
        let tag = target.name.tag();
        let made = tag.and_then(|tag| self.hints.filtered(place, tag));
        let made = made.map(|(made, _)| made);
        match &row.wanted {
            Some(wanted) if wanted.is_sparse() => {
                made.is_some_and(|made| *made.platforms == *wanted.to_string())
            }
            _ => !made.is_some_and(Filtered::is_sparse),
        }
    }

    /// The source's manifest was read, and what is wanted of it.
    pub(super) fn got_filtered(&mut self, image: ImageId, left: Left) {
        let name = self.image_source(image);
        let row = &self.images[image];
        let source = row.source;
        let wanted = row
            .wanted
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let (manifest, children, dropped) = match left {
            Left::Some {
                manifest,
                children,
                dropped,
            } => (manifest, children, dropped),
            Left::Nothing { has } => {
                log::warn!(
                    "{name} is skipped: it has {}, wanted is {wanted}",
                    List(&has)
                );
                return self.skip(image);
            }
        };
        if !dropped.is_empty() {
            let made = if manifest.is_sparse() {
                format!("the index {} keeps naming them", manifest.digest())
            } else {
                format!(
                    "its index {} becomes {}",
                    manifest.source_digest(),
                    manifest.digest()
                )
            };
            log::info!("{name} goes without {}: {made}", List(&dropped));
        }
        for child in children {
            self.add_made(child, source);
        }
        self.refuse_digest_names(image, &manifest);
        self.got(image, manifest);
    }

    fn skip(&mut self, image: ImageId) {
        // A target that failed before is taken up in the next pass.
        self.images[image].is_asking = false;
        for index in 0..self.images[image].targets.len() {
            if !self.images[image].target(index).state.is_settled() {
                self.settle(image, index, TargetState::Done(Outcome::Skipped));
            }
        }
        self.consider(image);
    }

    /// An index that was cut cannot have the digest that the source's has.
    fn refuse_digest_names(&mut self, image: ImageId, manifest: &Manifest) {
        let names = self.images[image].targets.iter().enumerate();
        let wrong: Vec<usize> = names
            .filter(|(_, target)| match &target.name {
                Reference::Digest(digest) => **digest != *manifest.digest(),
                Reference::Tag(_) => false,
            })
            .filter(|(_, target)| !target.state.is_settled())
            .map(|(index, _)| index)
            .collect();
        for index in wrong {
            let failure = Failure::for_good(
                format!("copy to {}", self.image_target(image, index)),
                format!(
                    "an index without some of its platforms has another digest, {}: name a tag at the target, or keep \
                     the index whole with `sparse`",
                    manifest.digest()
                ),
            );
            self.fail_target(image, index, &Arc::new(failure));
        }
    }
}
