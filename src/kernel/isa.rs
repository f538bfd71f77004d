//! The instruction sets that kernels are compiled for, and which of them a thread uses.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::{Error, Result};

/// The environment variable that forces an instruction set.
const SETTING: &str = "BEVY_DREAM_ISA";

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every CPU of the architecture has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// These and the basic part of AVX-512; products of 8 bits use VNNI where the CPU has it.
    Avx512,
}

thread_local! {
    /// What kernels called by this thread use: never more than the CPU has.
    static CURRENT: Cell<Isa> = Cell::new(Isa::preferred().unwrap_or_else(|_| Isa::best()));
}

impl Isa {
    const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Those that this CPU has, the best last.
    pub fn of_cpu() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| match isa {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        })
    }

    /// What the environment variable `BEVY_DREAM_ISA` says (`portable`, `avx2` or `avx512`), or else the best that the CPU
    /// has. It is read once.
    ///
    /// # Errors
    /// [`Error::Input`] when it names no instruction set, or one that the CPU lacks.
    pub fn preferred() -> Result<Self> {
        static READ: OnceLock<Result<Isa, String>> = OnceLock::new();
        let read = READ.get_or_init(|| match std::env::var_os(SETTING) {
            None => Ok(Self::best()),
            Some(text) => {
                let parsed: Result<Self> = text.to_string_lossy().parse();
                parsed.and_then(Self::check).map_err(|e| format!("{SETTING}: {e}"))
            }
        });
        read.clone().map_err(Error::Input)
    }

    /// The one that the kernels called by this thread use.
    #[inline]
    pub fn current() -> Self {
        CURRENT.get()
    }

    fn best() -> Self {
        Self::of_cpu().next_back().unwrap_or(Self::Portable)
    }

    /// Itself, if the CPU has it.
    pub(super) fn check(self) -> Result<Self> {
        if Self::of_cpu().any(|isa| isa == self) {
            return Ok(self);
        }
        let names: Vec<_> = Self::of_cpu().map(|isa| isa.to_string()).collect();
        Err(Error::input(format!("this CPU has no {self}: choose {}", names.join(" or "))))
    }

    /// Runs `work` with its kernels in this instruction set, on this thread alone.
    ///
    /// # Panics
    /// When the CPU lacks it.
    pub(super) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        struct Restore(Isa);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        // What is current is run without another look.
        assert!(Self::of_cpu().any(|isa| isa == self), "this CPU has no {self}");
        let _restore = Restore(CURRENT.replace(self));
        work()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.to_string() == text)
            .ok_or_else(|| Error::input(format!("'{text}' is no instruction set: choose portable, avx2 or avx512")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cpu_lacks_is_refused() {
        assert!(Isa::of_cpu().eq(Isa::of_cpu().filter(|isa| isa.check().is_ok())));
        assert!(Isa::of_cpu().is_sorted() && Isa::of_cpu().next() == Some(Isa::Portable));
        for isa in Isa::ALL.into_iter().filter(|isa| Isa::of_cpu().all(|other| other != *isa)) {
            let line = isa.check().unwrap_err().to_string();
            assert!(line.contains(&isa.to_string()) && line.ends_with(&Isa::best().to_string()), "{line}");
        }
    }

    #[test]
    fn names_are_read_as_written() {
        assert!(Isa::ALL.into_iter().all(|isa| isa.to_string().parse::<Isa>().unwrap() == isa));
        assert!(matches!("sse".parse::<Isa>(), Err(Error::Input(_))));
    }

    #[test]
    fn a_thread_uses_what_it_was_told_and_then_its_own_again() {
        let own = Isa::current();
        assert_eq!(Isa::Portable.run(Isa::current), Isa::Portable);
        assert_eq!(Isa::current(), own);
    }
}
