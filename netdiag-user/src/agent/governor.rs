//! The agent's budget: what it may cost, its kernel programs included, and what it does without when it costs more.
//!
//! The order is fixed: tc evidence, samples (queues of listeners, rules of the firewall), owners. What costs nothing
//! worth mentioning is passed over: to give it up would blind the agent and save nothing. So an agent that is over its
//! budget because of what it cannot give up stays complete, and says so.

use std::time::Duration;

use crate::engine::Shed;

/// How often it is looked at.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Windows over the budget before something is shed: a burst is no reason.
const PATIENCE: u32 = 2;
/// Windows well within the budget before something is taken up again.
const RECOVERY: u32 = 6;
/// Well within: below this part of the budget.
const CALM: f64 = 0.5;
/// What costs less than this part of the budget is not shed.
const WORTH: f64 = 0.05;

/// What may be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Share of one processor.
    pub cpu: f64,
    /// Bytes, kernel maps and programs included.
    pub memory: u64,
}

/// What was used in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Share of one processor: the agent's own process and all kernel programs.
    pub cpu: f64,
    pub memory: u64,
    /// Parts of `cpu` that can be shed, in the order of [`Step`].
    pub parts: [f64; 3],
}

/// What can be shed, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Wire,
    Samples,
    Owners,
}

impl Step {
    const ALL: [Self; 3] = [Self::Wire, Self::Samples, Self::Owners];

    pub fn name(self) -> &'static str {
        match self {
            Self::Wire => "tc evidence",
            Self::Samples => "samples of queues and firewall rules",
            Self::Owners => "the search for owners",
        }
    }
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Shed(Step),
    Resumed(Step),
    /// Over the budget, and nothing that can be shed would help.
    Exhausted,
}

#[derive(Debug)]
pub struct Governor {
    pub budget: Budget,
    shed: Shed,
    over: u32,
    calm: u32,
    exhausted: bool,
}

impl Governor {
    pub fn new(budget: Budget) -> Self {
        Self { budget, shed: Shed::default(), over: 0, calm: 0, exhausted: false }
    }

    pub fn shed(&self) -> Shed {
        self.shed
    }

    /// Whether it is over the budget with nothing left to shed.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Judges a window.
    pub fn judge(&mut self, usage: &Usage) -> Option<Change> {
        let Budget { cpu, memory } = self.budget;
        let over = usage.cpu > cpu || usage.memory > memory;
        // Memory does not come back by shedding less.
        let calm = usage.cpu < cpu * CALM && usage.memory <= memory;
        self.over = if over { self.over + 1 } else { 0 };
        self.calm = if calm { self.calm + 1 } else { 0 };
        if !over {
            self.exhausted = false;
        }
        if self.over >= PATIENCE {
            self.over = 0;
            return self.give_up(usage);
        }
        if self.calm >= RECOVERY {
            self.calm = 0;
            let last = Step::ALL.into_iter().rev().find(|step| *self.flag(*step))?;
            *self.flag(last) = false;
            return Some(Change::Resumed(last));
        }
        None
    }

    fn give_up(&mut self, usage: &Usage) -> Option<Change> {
        let worth = self.budget.cpu * WORTH;
        let costs = Step::ALL.into_iter().zip(usage.parts).filter(|(_, part)| *part > worth);
        let next = costs.map(|(step, _)| step).find(|step| !*self.flag(*step));
        match next {
            Some(step) => {
                *self.flag(step) = true;
                Some(Change::Shed(step))
            }
            None if self.exhausted => None,
            None => {
                self.exhausted = true;
                Some(Change::Exhausted)
            }
        }
    }

    fn flag(&mut self, step: Step) -> &mut bool {
        match step {
            Step::Wire => &mut self.shed.wire,
            Step::Samples => &mut self.shed.samples,
            Step::Owners => &mut self.shed.owners,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { cpu: 0.01, memory: 64_000_000 };

    fn usage(cpu: f64, parts: [f64; 3]) -> Usage {
        Usage { cpu, memory: 30_000_000, parts }
    }

    /// What a number of equal windows bring.
    fn windows(governor: &mut Governor, number: u32, usage: Usage) -> Vec<Change> {
        (0..number).filter_map(|_| governor.judge(&usage)).collect()
    }

    #[test]
    fn it_sheds_in_order_and_comes_back_in_the_other() {
        let mut governor = Governor::new(BUDGET);
        let busy = usage(0.05, [0.01; 3]);
        assert_eq!(
            windows(&mut governor, 6, busy),
            [Change::Shed(Step::Wire), Change::Shed(Step::Samples), Change::Shed(Step::Owners)]
        );
        assert_eq!(governor.shed().names(), ["wire", "samples", "owners"]);
        assert_eq!(
            windows(&mut governor, 18, usage(0.001, [0.0; 3])),
            [Change::Resumed(Step::Owners), Change::Resumed(Step::Samples), Change::Resumed(Step::Wire)]
        );
        assert_eq!(governor.shed(), Shed::default());
    }

    #[test]
    fn a_burst_is_no_reason_and_nor_is_a_little_less() {
        let mut governor = Governor::new(BUDGET);
        for _ in 0..10 {
            assert_eq!(governor.judge(&usage(0.05, [0.01; 3])), None);
            assert_eq!(governor.judge(&usage(0.005, [0.0; 3])), None);
        }
        assert_eq!(windows(&mut governor, 2, usage(0.05, [0.01; 3])), [Change::Shed(Step::Wire)]);
        // Neither over it nor well within.
        assert_eq!(windows(&mut governor, 50, usage(0.008, [0.0; 3])), []);
    }

    #[test]
    fn what_costs_nothing_is_kept() {
        let mut governor = Governor::new(BUDGET);
        assert_eq!(windows(&mut governor, 2, usage(0.05, [0.0, 0.03, 0.0])), [Change::Shed(Step::Samples)]);
        assert_eq!(governor.shed().names(), ["samples"]);
        // It is told once that nothing else helps, and again after it was better.
        assert_eq!(windows(&mut governor, 20, usage(0.05, [0.0; 3])), [Change::Exhausted]);
        assert!(governor.is_exhausted());
        governor.judge(&usage(0.008, [0.0; 3]));
        assert!(!governor.is_exhausted());
        assert_eq!(windows(&mut governor, 20, usage(0.05, [0.0; 3])), [Change::Exhausted]);
    }

    #[test]
    fn memory_counts_too() {
        let mut governor = Governor::new(BUDGET);
        let large = Usage { memory: 80_000_000, ..usage(0.001, [0.0; 3]) };
        assert_eq!(windows(&mut governor, 2, large), [Change::Exhausted]);
    }
}
