//! What rules come to: which images with which targets, and that two rules never write one tag. Not here: when a rule is
//! ready for that, and when its images may begin (`plan.rs`).

use std::sync::Arc;

use super::graph::Graph;
use super::image::{Had, Image, ImageId, List, Target, TargetState};
use super::places::{PlaceId, Tags};
use super::plan::{Claim, Plan};
use super::task::Failure;
use crate::config::Selection;
use crate::oci::{PlatformFilter, Reference, Tag};
use crate::store::{Place, Stores};

impl Plan {
    /// Makes the images of a group's rules, or adds targets to those that exist. Gives those with something to do.
    pub(super) fn form_images(
        &mut self,
        number: usize,
        graph: &mut Graph<'_>,
        stores: &dyn Stores,
    ) -> Vec<ImageId> {
        let mut touched = Vec::new();
        let Some(group) = self.groups.get(number) else {
            return touched;
        };
        let (source, rules) = (group.source, group.rules.clone());
        for rule in rules {
            if self.states.get(rule).is_none_or(|state| state.is_formed) {
                continue;
            }
            let references = self.references(rule, source, graph, stores);
            let outcome = match references {
                Ok(references) => {
                    if let Some(preview) = graph.previews.get_mut(rule) {
                        preview.kept = references.iter().map(ToString::to_string).collect();
                    }
                    self.form_rule(number, rule, &references, graph, &mut touched);
                    None
                }
                Err(failure) => Some(failure),
            };
            if let Some(state) = self.states.get_mut(rule) {
                state.form(outcome, &mut graph.counts);
            }
        }
        touched.dedup();
        touched
    }

    /// The images that a rule means, or why there are none.
    fn references(
        &self,
        number: usize,
        source: PlaceId,
        graph: &mut Graph<'_>,
        stores: &dyn Stores,
    ) -> Result<Vec<Reference>, Failure> {
        let Some(rule) = self.rules.get(number) else {
            return Ok(Vec::new());
        };
        let failure =
            |cause: &str| Failure::for_good(format!("find the images of {}", rule.source), cause);
        match &rule.selection {
            Selection::Named(references) => Ok(references.clone()),
            Selection::Sole => match stores.sole(&rule.source) {
                Ok(Some(digest)) => Ok(vec![digest.into()]),
                Ok(None) => Err(failure(
                    "the layout does not hold exactly one image: name a tag",
                )),
                Err(error) => Err(failure(&error.to_string())),
            },
            Selection::Listed(filter) => match &graph.places[source].tags {
                Tags::Listed(_, tags) if tags.is_empty() && filter.min() > 0 => {
                    Err(failure("the repository has no tags"))
                }
                Tags::Listed(_, tags) => {
                    let of_images: Vec<Tag>;
                    let mut tags = tags;
                    if rule.referrers {
                        // These travel with the images that they are about.
                        let others = tags.iter().filter(|tag| !tag.is_of_digest());
                        of_images = others.cloned().collect();
                        tags = &of_images;
                    }
                    let choice = graph.choose(source, filter, tags)?;
                    for (tag, reason) in &choice.dropped {
                        log::debug!("{}:{tag} is not wanted: {reason}", rule.source);
                    }
                    if let Some(preview) = graph.previews.get_mut(number) {
                        preview.dropped.clear();
                        for (tag, reason) in &choice.dropped {
                            let tags = preview.dropped.entry(reason.to_string()).or_default();
                            tags.push(tag.to_string());
                        }
                    }
                    let (left, min) = (choice.kept.len(), filter.min());
                    if left < min {
                        let cause = format!("the rule wants {choice}; it must be {min} at least");
                        return Err(failure(&cause));
                    }
                    if !choice.dropped.is_empty() {
                        log::info!("{}: the rule wants {choice}", rule.source);
                    }
                    Ok(choice.kept.into_iter().map(Reference::Tag).collect())
                }
                Tags::Missing => Err(failure(match &rule.source {
                    Place::Registry(..) => {
                        "there is no such repository, or no permission to see it"
                    }
                    Place::Layout(_) => "there is no image layout in this folder",
                })),
                Tags::Failed(failure) => Err(Failure::clone(failure)),
                Tags::Unknown | Tags::Asked | Tags::AskedAgain => {
                    Err(failure("its tags were never listed: this is a bug"))
                }
            },
        }
    }

    fn form_rule(
        &mut self,
        group: usize,
        number: usize,
        references: &[Reference],
        graph: &mut Graph<'_>,
        touched: &mut Vec<ImageId>,
    ) {
        let (Some(rule), Some(source)) = (
            self.rules.get(number).cloned(),
            self.groups.get(group).map(|group| group.source),
        ) else {
            return;
        };
        for target in &rule.targets {
            let place = graph.place(&target.place);
            // One request for the list spares a HEAD for each tag that is lacking; where the records name all tags
            // but one, there is nothing to spare (decisions D4).
            let tags = references.iter().filter_map(Reference::tag);
            let is_new = |tag: &Tag| graph.hints.tag(&target.place, tag).is_none();
            let unrecorded = tags.filter(|tag| is_new(tag)).count();
            for (nth, reference) in references.iter().enumerate() {
                let name = target.names.get(nth).unwrap_or(reference);
                let list = match &rule.selection {
                    // Its targets are not asked for tags.
                    _ if rule.force => List::Spared,
                    Selection::Listed(_) if unrecorded > 1 => List::First,
                    Selection::Listed(_)
                        if references.len() > 1 && name.tag().is_some_and(is_new) =>
                    {
                        List::Spared
                    }
                    _ => List::IfLacking,
                };
                let image = self.image(group, source, reference, rule.platforms.as_ref(), graph);
                let index = graph.images[image].targets.len();
                let mut state = TargetState::Waiting;
                let mine = Claim { image, index };
                match self.claims.get(&(place, name.clone())) {
                    Some(claim) if claim.image == image => continue,
                    Some(claim) if name.tag().is_some() => {
                        state = self.conflict(claim, number, graph);
                    }
                    None if place == source && name == reference => {
                        let cause = "the source is its own target".to_owned();
                        state = failed(format!("copy {}", graph.image_source(image)), cause);
                    }
                    // Under a digest everybody writes the same.
                    Some(_) => {}
                    None => {
                        self.claims.insert((place, name.clone()), mine);
                        if reference.tag().is_none() {
                            let digest = (place, reference.clone());
                            self.claims.entry(digest).or_insert(mine);
                        }
                    }
                }
                if let Some(state) = self.states.get_mut(number) {
                    state.open_pairs += 1;
                }
                match state {
                    TargetState::Waiting => touched.push(image),
                    _ => graph.announce(image, index),
                }
                graph.counts.images += 1;
                let targets = &mut graph.images[image].targets;
                // Most images have one target, and there may be a million of them.
                targets.reserve_exact(1);
                targets.push(Target {
                    place,
                    name: name.clone(),
                    list,
                    rule: number,
                    had: Had::Another,
                    is_forced: rule.force,
                    with_referrers: rule.referrers,
                    state,
                });
            }
        }
    }

    fn image(
        &mut self,
        group: usize,
        source: PlaceId,
        reference: &Reference,
        wanted: Option<&Arc<PlatformFilter>>,
        graph: &mut Graph<'_>,
    ) -> ImageId {
        let digest = reference.tag().and_then(|tag| graph.dated(source, tag));
        let digest = digest.map(|dated| dated.digest.clone());
        let new = || Image::new(source, reference.clone(), wanted.cloned(), digest);
        match self.groups.get_mut(group) {
            Some(group) => *group
                .images
                .entry((reference.clone(), wanted.cloned()))
                .or_insert_with(|| graph.images.push(new())),
            None => graph.images.push(new()),
        }
    }

    /// Two rules write one tag from different sources: the later in the file fails, and is told where both stand (D2).
    fn conflict(&self, claim: &Claim, number: usize, graph: &Graph<'_>) -> TargetState {
        let place = |rule: usize| {
            self.rules
                .get(rule)
                .map(|rule| rule.position.to_string())
                .unwrap_or_default()
        };
        failed(
            format!("copy to {}", graph.image_target(claim.image, claim.index)),
            format!(
                "the rule at {} writes the same tag from {} ({} writes it again)",
                place(graph.images[claim.image].target(claim.index).rule),
                graph.image_source(claim.image),
                place(number)
            ),
        )
    }
}

fn failed(operation: String, cause: String) -> TargetState {
    TargetState::Failed {
        failure: Arc::new(Failure::for_good(operation, cause)),
        at_source: false,
    }
}
