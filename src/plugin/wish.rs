//! What a game asked of a world, beside what the model thread has answered.

use std::collections::VecDeque;

use super::Dream;

/// The thread answers later than the game asks. What it tells of a value must not undo a newer wish for it: one that was
/// sent and is not obeyed yet, or one that is not even sent.
pub(super) struct Wishes {
    /// As the thread has obeyed it.
    obeyed: Dream,
    /// Sent and not obeyed yet, each with the number of its last command.
    open: VecDeque<(u64, Dream)>,
}

impl Wishes {
    /// A world that is asked for as `dream` says.
    pub fn new(dream: Dream) -> Self {
        Self { obeyed: dream, open: VecDeque::new() }
    }

    /// What was asked last.
    pub fn last(&self) -> &Dream {
        self.open.back().map_or(&self.obeyed, |(_, dream)| dream)
    }

    /// What the thread has obeyed.
    pub fn obeyed(&self) -> &Dream {
        &self.obeyed
    }

    /// `dream` was asked for by commands up to this number.
    pub fn ask(&mut self, dream: Dream, number: u64) {
        self.open.push_back((number, dream));
    }

    /// The thread has obeyed the commands up to this number.
    pub fn obey(&mut self, number: u64) {
        while let Some((_, dream)) = self.open.pop_front_if(|(last, _)| *last <= number) {
            self.obeyed = dream;
        }
    }

    /// The world has this value. So have the wishes, unless there is a newer one for it.
    pub fn settle<T: Clone + PartialEq>(&mut self, dream: &mut Dream, field: fn(&mut Dream) -> &mut T, value: &T) {
        let obeyed = std::mem::replace(field(&mut self.obeyed), value.clone());
        if self.open.iter_mut().any(|(_, wish)| *field(wish) != obeyed) {
            return;
        }
        self.open.iter_mut().for_each(|(_, wish)| field(wish).clone_from(value));
        if *field(dream) == obeyed {
            field(dream).clone_from(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dream(prompt: &str) -> Dream {
        Dream::new("model", prompt)
    }

    /// The prompts of the game's wish and of what was asked last, after the world is told to have the prompt "old".
    fn settled(wishes: &mut Wishes, wish: &str) -> (String, String) {
        let mut wish = dream(wish);
        wishes.settle(&mut wish, |dream| &mut dream.prompt, &"old".into());
        (wish.prompt, wishes.last().prompt.clone())
    }

    #[test]
    fn what_the_world_is_told_to_be_becomes_the_wish() {
        assert_eq!(settled(&mut Wishes::new(dream("a")), "a"), ("old".into(), "old".into()));
        let mut wishes = Wishes::new(dream("a"));
        wishes.ask(Dream { paused: true, ..dream("a") }, 1);
        assert_eq!(settled(&mut wishes, "a"), ("old".into(), "old".into()), "another wish is on its way");
        assert!(wishes.last().paused);
    }

    #[test]
    fn a_newer_wish_stands() {
        let mut wishes = Wishes::new(dream("a"));
        assert_eq!(settled(&mut wishes, "new"), ("new".into(), "old".into()), "it is still to be sent");
        let mut wishes = Wishes::new(dream("a"));
        wishes.ask(dream("new"), 1);
        assert_eq!(settled(&mut wishes, "new"), ("new".into(), "new".into()), "it is on its way");
        wishes.ask(dream("a"), 2);
        assert_eq!(settled(&mut wishes, "a"), ("a".into(), "a".into()), "so is the way back");
        wishes.obey(2);
        assert_eq!(settled(&mut wishes, "a"), ("old".into(), "old".into()), "all is answered");
    }

    #[test]
    fn wishes_are_obeyed_in_turn() {
        let mut wishes = Wishes::new(dream("a"));
        wishes.ask(dream("b"), 1);
        wishes.ask(dream("c"), 3);
        for (number, obeyed) in [(0, "a"), (1, "b"), (2, "b"), (3, "c")] {
            wishes.obey(number);
            assert_eq!((&*wishes.obeyed().prompt, &*wishes.last().prompt), (obeyed, "c"));
        }
    }
}
