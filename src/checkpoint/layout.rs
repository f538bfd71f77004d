//! The shapes that a config makes, and which of its fields makes one.

use std::collections::BTreeMap;

/// Shapes of tensors by name.
pub type Layout = BTreeMap<String, Vec<usize>>;

/// A size in a config: its name there, and what makes it another one, such as twice as large.
pub type Size<C> = (&'static str, fn(&mut C));

/// Who decides a shape that is not as it was `found`: the fields without which it would be another.
pub(super) fn blame<C: Clone>(
    config: &C,
    sizes: &[Size<C>],
    layout: impl Fn(&C) -> Layout,
    name: &str,
    found: &[usize],
) -> String {
    let expected = layout(config).remove(name).unwrap_or_default();
    let decides = |(_, change): &&Size<C>| {
        let mut other = config.clone();
        change(&mut other);
        let shape = layout(&other).remove(name).unwrap_or_default();
        let axes = expected.iter().zip(shape).zip(found);
        found.len() == expected.len() && axes.into_iter().any(|((this, other), found)| *this != other && this != found)
    };
    let fields: Vec<_> = sizes.iter().filter(decides).map(|(field, _)| *field).collect();
    if fields.is_empty() { "the config".into() } else { format!("the config ({})", fields.join(", ")) }
}
