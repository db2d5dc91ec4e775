//! The skips that are all right, by kernel. A skip that is not here fails the run.

use netdiag_tests::scenario::ExpectedSkip;

pub const EXPECTED: &[ExpectedSkip] = &[];
