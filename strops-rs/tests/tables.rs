//! Worked examples: what overlaps, what does not, and where the words change over.

use strops::{MAX_WEIGHT, Overlap, Pair, Scoring, align_overlap, merge_by_overlap};

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn align(prev: &str, new: &str) -> Option<Overlap> {
    align_overlap(&words(prev), &words(new), Scoring::DEFAULT)
}

#[track_caller]
fn check(cases: &[(&str, &str, &str)]) {
    for (prev, new, merged) in cases {
        assert_eq!(
            merge_by_overlap(&words(prev), &words(new)),
            words(merged),
            "{prev:?} + {new:?}"
        );
    }
}

#[test]
fn shared_words_are_written_once() {
    check(&[
        ("the quick brown fox", "brown fox jumps", "the quick brown fox jumps"),
        ("a b c", "a b c", "a b c"),
        ("a b c", "b c", "a b c"),
        ("straße über", "über 東京", "straße über 東京"),
    ]);
}

#[test]
fn errors_within_the_overlap_are_tolerated() {
    check(&[
        ("the quick brown fox", "wn fox jumps", "the quick brown fox jumps"),
        ("the quick brown fo", "brown fox jumps over", "the quick brown fox jumps over"),
        ("a b c d e f", "c e f g h", "a b c d e f g h"),
        ("a b c e f", "b c d e f g", "a b c e f g"),
        ("a b c d x", "b c d e f", "a b c d e f"),
        ("a b c d e", "x c d e f", "a b c d e f"),
    ]);
}

#[test]
fn without_overlap_everything_is_kept() {
    check(&[
        ("", "", ""),
        ("a b", "", "a b"),
        ("", "a b", "a b"),
        ("a b c", "d e f", "a b c d e f"),
    ]);
}

#[test]
fn a_lone_common_word_away_from_the_seam_is_no_overlap() {
    check(&[
        ("a the b c", "d e the f", "a the b c d e the f"),
        ("a b the c", "d the e f", "a b the c d the e f"),
        ("a the b c", "the d e f", "a the b c the d e f"),
    ]);
}

#[test]
fn repetition_overlaps_as_far_as_it_matches() {
    check(&[
        ("no no no", "no no yes", "no no no yes"),
        ("no no no", "no no no yes", "no no no yes"),
        ("yes no no", "no no no no", "yes no no no no"),
        ("a b a b", "a b a b c", "a b a b c"),
    ]);
}

#[test]
fn of_equal_scores_the_shortest_prefix_wins() {
    // One pair without a gap, or two pairs and a gap: both score 10.
    assert_eq!(align("a b", "b a b").map(|overlap| overlap.new), Some(0..1));
}

#[test]
fn of_equal_alignments_the_last_pairs_win_then_the_last_words_of_prev_are_skipped() {
    // The second `b` of the older words is the one that is paired.
    check(&[("a b b c", "a b c", "a b b c")]);
    // `x` is paired and `y` skipped on either side, not the other way round.
    assert_eq!(
        align("p x y q", "p y x q").map(|overlap| overlap.cut),
        Some(Pair { prev: 2, new: 3 })
    );
}

#[test]
fn the_overlap_is_a_suffix_and_a_prefix() {
    assert_eq!(
        align("the quick brown fox", "wn fox jumps"),
        Some(Overlap {
            prev: 2..4,
            new: 0..2,
            first_match: Pair { prev: 3, new: 1 },
            cut: Pair { prev: 3, new: 1 },
            score: 1,
        })
    );
}

#[test]
fn the_cut_is_farthest_from_both_edges_and_late() {
    let cut = |prev, new| align(prev, new).map(|overlap| (overlap.cut.prev, overlap.cut.new));
    assert_eq!(cut("z a b c d", "a b c d y"), Some((3, 2)));
    assert_eq!(cut("z a b c", "a b c y"), Some((3, 2)));
    assert_eq!(cut("z a b x x f", "a b c d f y"), Some((3, 2)));
    assert_eq!(cut("z a", "a y"), Some((2, 1)));
}

#[test]
fn weights_decide_what_overlaps() {
    let strict = Scoring::new(1, 1, 1).expect("in range");
    let prev = ["brown", "fox"];
    assert_eq!(align_overlap(&prev, &["wn", "fox"], strict), None);
    assert!(align_overlap(&prev, &["fox"], strict).is_some());
}

#[test]
fn weights_out_of_range_are_refused_by_name() {
    for bad in [i64::MIN, -1, 0, MAX_WEIGHT + 1, i64::MAX] {
        for (scoring, name) in [
            (Scoring::new(bad, 1, 1), "match_reward"),
            (Scoring::new(1, bad, 1), "mismatch_penalty"),
            (Scoring::new(1, 1, bad), "gap_penalty"),
        ] {
            let message = scoring.expect_err("out of range").to_string();
            assert_eq!(message, format!("{name} must be in 1..={MAX_WEIGHT}"));
        }
    }
    assert!(Scoring::new(MAX_WEIGHT, MAX_WEIGHT, MAX_WEIGHT).is_ok());
}
