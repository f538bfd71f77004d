//! What a world looks like in three words: biome, time of day, weather.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Declares an enum whose variants print and parse as lower-case words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every value, in the order of the design.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The lower-case name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|v| v.name() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|v| v.name()).collect();
                    Error::input(format!("'{text}' is not a {}: use one of {}", $what, names.join(", ")))
                })
            }
        }
    };
}

words! {
    /// What grows and lies around.
    Biome, "biome":
    /// Green, flowers, a few round trees.
    Meadow = "meadow",
    /// Dark green, many trees of two kinds.
    Forest = "forest",
    /// Sand, cacti, dead bushes, sandstone.
    Desert = "desert",
    /// White, dark firs, frozen ponds.
    Snowfield = "snowfield",
    /// Red and orange layered terraces.
    Badlands = "badlands",
    /// Beach, blue water, palms.
    Shore = "shore",
}

words! {
    /// The time of day.
    Time, "time":
    /// A low sun in a pale pink sky.
    Dawn = "dawn",
    /// A high sun in a blue sky.
    Noon = "noon",
    /// A low sun in an orange sky.
    Sunset = "sunset",
    /// A moon in a deep blue sky.
    Night = "night",
}

words! {
    /// The weather.
    Weather, "weather":
    /// Far sight, shadows.
    Clear = "clear",
    /// Short sight in white-grey.
    Fog = "fog",
    /// Overcast, darker ground, faint streaks.
    Rain = "rain",
    /// Pale haze, soft flakes.
    Snowfall = "snowfall",
}

/// One combination; all are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scene {
    /// The biome.
    pub biome: Biome,
    /// The time of day.
    pub time: Time,
    /// The weather.
    pub weather: Weather,
}

impl Scene {
    /// Every combination.
    pub fn all() -> impl Iterator<Item = Self> {
        Biome::ALL.iter().flat_map(|&biome| {
            Time::ALL
                .iter()
                .flat_map(move |&time| Weather::ALL.iter().map(move |&weather| Self { biome, time, weather }))
        })
    }
}

impl fmt::Display for Scene {
    /// `biome time weather`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.biome, self.time, self.weather)
    }
}

impl FromStr for Scene {
    type Err = Error;

    /// Parses `biome time weather`.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            [biome, time, weather] => {
                Ok(Self { biome: biome.parse()?, time: time.parse()?, weather: weather.parse()? })
            }
            _ => Err(Error::input(format!(
                "'{text}' is not a scene: write biome, time and weather, for instance 'forest dawn fog'"
            ))),
        }
    }
}
