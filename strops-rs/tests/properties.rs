//! What holds for every input. Words come from four letters, so that repetition is common.

use quickcheck::{Arbitrary, Gen, TestResult, quickcheck};
use strops::{HEAD_WORDS, MAX_WEIGHT, Scoring, TAIL_WORDS, align_overlap, merge_by_overlap};

#[derive(Clone, Debug)]
struct Words(Vec<u8>);

impl Arbitrary for Words {
    fn arbitrary(g: &mut Gen) -> Self {
        Self(Vec::<u8>::arbitrary(g).iter().map(|word| word % 4).collect())
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        Box::new(self.0.shrink().map(Self))
    }
}

/// Reward for a match, penalties for a mismatch and for a gap.
#[derive(Clone, Copy, Debug)]
struct Weights([i64; 3]);

impl Weights {
    fn scoring(self) -> Scoring {
        let [reward, mismatch, gap] = self.0;
        Scoring::new(reward, mismatch, gap).expect("in range")
    }

    /// The best score of pairing all of `prev` with all of `new`, by trying everything.
    fn exhaustive(self, prev: &[u8], new: &[u8]) -> i64 {
        let [reward, mismatch, gap] = self.0;
        match (prev, new) {
            ([], rest) | (rest, []) => -gap * rest.len() as i64,
            ([a, prev_rest @ ..], [b, new_rest @ ..]) => {
                let pair = if a == b { reward } else { -mismatch };
                (pair + self.exhaustive(prev_rest, new_rest))
                    .max(self.exhaustive(prev_rest, new) - gap)
                    .max(self.exhaustive(prev, new_rest) - gap)
            }
        }
    }
}

impl Arbitrary for Weights {
    fn arbitrary(g: &mut Gen) -> Self {
        Self([(); 3].map(|()| *g.choose(&[1, 2, 3, 5, 10, MAX_WEIGHT]).expect("not empty")))
    }
}

quickcheck! {
    fn score_and_prefix_are_those_of_an_exhaustive_search(
        prev: Words,
        new: Words,
        weights: Weights
    ) -> bool {
        let (prev, new) = (&prev.0[..prev.0.len().min(4)], &new.0[..new.0.len().min(4)]);
        let mut best = (0, 0);
        for end in 1..=new.len() {
            for start in 0..=prev.len() {
                let score = weights.exhaustive(&prev[start..], &new[..end]);
                if score > best.0 {
                    best = (score, end);
                }
            }
        }
        let overlap = align_overlap(prev, new, weights.scoring());
        best == overlap.map_or((0, 0), |overlap| (overlap.score, overlap.new.end))
    }

    fn an_overlap_is_well_formed(prev: Words, new: Words, weights: Weights) -> bool {
        let (prev, new) = (prev.0, new.0);
        align_overlap(&prev, &new, weights.scoring()).is_none_or(|overlap| {
            let (first, cut) = (overlap.first_match, overlap.cut);
            overlap.score > 0
                && overlap.prev.end == prev.len()
                && overlap.new.start == 0
                && overlap.prev.contains(&first.prev)
                && overlap.new.contains(&first.new)
                && prev[first.prev] == new[first.new]
                && (first.prev..=prev.len()).contains(&cut.prev)
                && (first.new..=overlap.new.end).contains(&cut.new)
        })
    }

    fn merging_keeps_the_order_of_both(prev: Words, new: Words) -> bool {
        let merged = merge_by_overlap(&prev.0, &new.0);
        (0..=prev.0.len()).any(|kept| {
            let (old, rest) = (&prev.0[..kept], merged.get(kept..));
            merged.starts_with(old) && rest.is_some_and(|rest| new.0.ends_with(rest))
        })
    }

    fn merging_with_itself_changes_nothing(words: Words) -> bool {
        let words = &words.0[..words.0.len().min(HEAD_WORDS)];
        merge_by_overlap(words, words) == words
    }

    fn empty_is_neutral(words: Words) -> bool {
        merge_by_overlap(&words.0, &[]) == words.0 && merge_by_overlap(&[], &words.0) == words.0
    }

    fn pieces_of_distinct_words_make_the_whole(start: u8, shared: u8, rest: u8) -> TestResult {
        let shared = usize::from(shared) % TAIL_WORDS + 1;
        let middle = usize::from(start) + shared;
        let whole: Vec<usize> = (0..middle + usize::from(rest)).collect();
        let merged = merge_by_overlap(&whole[..middle], &whole[usize::from(start)..]);
        TestResult::from_bool(merged == whole)
    }

    fn sequences_with_nothing_in_common_are_concatenated(prev: Words, new: Words) -> bool {
        let other: Vec<u8> = new.0.iter().map(|word| word + 4).collect();
        merge_by_overlap(&prev.0, &other) == [prev.0, other].concat()
    }

    fn only_the_tail_and_the_head_count(
        before: Words,
        tail: Words,
        head: Words,
        after: Words
    ) -> bool {
        let fill = |words: Vec<u8>, length| words.into_iter().cycle().take(length);
        if tail.0.is_empty() || head.0.is_empty() {
            return true;
        }
        let tail: Vec<u8> = fill(tail.0, TAIL_WORDS).collect();
        let head: Vec<u8> = fill(head.0, HEAD_WORDS).collect();
        let prev = [before.0.clone(), tail.clone()].concat();
        let new = [head.clone(), after.0].concat();
        let moved = align_overlap(&tail, &head, Scoring::DEFAULT).map(|mut overlap| {
            overlap.prev = overlap.prev.start + before.0.len()..prev.len();
            overlap.first_match.prev += before.0.len();
            overlap.cut.prev += before.0.len();
            overlap
        });
        align_overlap(&prev, &new, Scoring::DEFAULT) == moved
    }
}
