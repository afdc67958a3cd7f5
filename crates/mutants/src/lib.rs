//! Bugs that programs like this one have had, kept in the code where they would be, and switched off.
//!
//! ```
//! use zonal_mutants::mutant;
//! let answers = |kept: bool| kept || mutant!(AckBeforeKept);
//! assert!(!answers(false), "off unless a simulation asks for it");
//! ```
//!
//! Start at [`Mutant`]. The simulation must catch each of them (`cargo xtask sim --mutants`): a bug that it lets pass
//! says where its world or its checkers are too weak.
//!
//! Always true: without the feature `mutants` each point is the constant `false` and costs nothing; with it a bug is on
//! only for one closure on one thread.
//!
//! Deliberately absent: bugs of things that this product does not have.

/// Whether a bug is on: `if mutant!(DeleteByAbsence) { … }`.
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::Mutant::$name.is_on()
    };
}

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A bug by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What is wrong, in a sentence.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    // --- the protocol (`delta`)

    /// What the first message after a reconnect does not name is deleted.
    DeleteByAbsence,
    /// A refused resource counts as held, so that a reconnect does not bring it again.
    RefusedCountsAsHeld,
    /// A refused resource is never offered again unchanged.
    RefusedNeverRetried,
    /// Sums that differ are reported as the same.
    SumsAlwaysAgree,
    /// What was removed while a peer was away is not said.
    RemovalForgottenWhileAway,
    /// A response counts as answered when it is sent.
    AnsweredWhenSent,
    /// More is said of a type while a response is unanswered.
    TalksWithoutListening,
    /// The first part of a set that was cut looks like all of it.
    PartLooksWhole,
    /// A set that was cut goes on with newer content.
    SetChangesHalfway,
    /// Who has nothing to offer says nothing, and its peer waits.
    EmptySetNotSaid,

    // --- the ends of a stream (`kds`)

    /// The removal of a mesh takes along what the peer still has in it.
    MeshTakesCopiesAlong,
    /// A copy that never crossed withdraws the own resource that would have its name.
    WithdrawsWhatNeverCrossed,
    /// What a zone offered stays with the others when it is switched off.
    SwitchedOffStays,
    /// Woken once for several revisions, a stream looks at the last one only.
    MergedWakesMissed,
    /// A batch is written over whatever is there by now.
    WritesBlindly,
    /// A zone gets its own resources back from global.
    OwnComesBack,

    // --- the border (`federation`)

    /// One bad resource keeps its whole batch from being kept.
    OneBadBlocksItsKind,
    /// The first set from global deletes what the zone has of its own.
    FirstSetDeletesOwn,
    /// A copy's status, and with it the service's address, does not survive a sync.
    AddressLostOnSync,
    /// Copies of other zones' resources go up to global again.
    CopiesGoUp,
    /// Resources of one name from two zones have one name at global.
    NamesCollide,
    /// What is labelled to stay at home crosses.
    PrivateCrosses,

    // --- addresses, store, receipts

    /// A freed address is given to the next service at once.
    AddressGivenToStranger,
    /// A mesh is removed and what is in it stays.
    MeshLeavesContent,
    /// A proxy that refuses a revision counts as using it.
    RefusalCountsAsUse,
    /// A proxy that comes back counts as having answered.
    BackCountsAsAnswered,

    // --- the shells, as the simulation has them

    /// The answer leaves before the batch is kept.
    AckBeforeKept,
    /// Whoever receives sleeps before it answers, and everything behind waits.
    SleepsWhileReceiving,
    /// Whoever cannot send does not receive either.
    ReceivesOnlyWhenSent,
    /// A queue of states is worked off where the newest would do.
    EveryStateInTurn,
    /// A newer upward stream of a zone does not end the older one.
    OlderStreamGoesOn,
    /// The end of an old stream wipes out what is known of the newer one.
    StatePerZone,
    /// A zone that is deleted while connected goes on as if nothing had been.
    DeletedZoneGoesOn,
    /// A mesh is removed and made again, and nobody asks the zones for what they have in it.
    MeshComesEmpty,
    /// A batch that somebody else's change has overtaken is dropped, and answered.
    OvertakenBatchDropped,
    /// A stream that ends without an error is taken for one that is quiet.
    CleanEndIgnored,
    /// A peer that does not answer is waited for without an end.
    SilenceIgnored,
    /// A stream ends because of one bad resource in it.
    RefusalEndsStream,
}

#[cfg(not(feature = "mutants"))]
impl Mutant {
    /// Whether it is on: never, in this build.
    #[must_use]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
        static MET: Cell<bool> = const { Cell::new(false) };
    }

    /// Switches everything off again, also when a panic passes.
    struct Off;

    impl Drop for Off {
        fn drop(&mut self) {
            ON.set(None);
        }
    }

    impl Mutant {
        /// Whether it is on, on this thread.
        #[must_use]
        #[inline]
        pub fn is_on(self) -> bool {
            let on = ON.get() == Some(self);
            if on {
                MET.set(true);
            }
            on
        }

        /// Lets this bug, and no other, be there while `work` runs. Also says whether `work` came by it.
        pub fn during<T>(self, work: impl FnOnce() -> T) -> (T, bool) {
            let _off = Off;
            MET.set(false);
            ON.set(Some(self));
            let done = work();
            (done, MET.get())
        }
    }
}

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use super::Mutant;

    #[test]
    fn one_is_on_for_one_closure_on_one_thread() {
        let (others, met) = Mutant::AckBeforeKept.during(|| {
            assert!(mutant!(AckBeforeKept));
            assert!(!mutant!(DeleteByAbsence));
            std::thread::spawn(|| mutant!(AckBeforeKept))
                .join()
                .unwrap()
        });
        assert!(met && !others);
        assert!(!mutant!(AckBeforeKept));
        let (_, met) = Mutant::AckBeforeKept.during(|| mutant!(DeleteByAbsence));
        assert!(!met);
    }

    #[test]
    fn each_says_what_is_wrong() {
        for mutant in Mutant::ALL {
            assert!(mutant.words().ends_with('.'), "{mutant:?}");
        }
    }
}
