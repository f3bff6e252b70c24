//! Makes a plan that fails smaller, as long as the same judge finds fault with it.

use crate::{
    plan::{Knobs, Plan},
    world,
};

/// A smaller plan, and how many runs it took.
pub fn shrink(plan: &Plan) -> Option<(Plan, u32)> {
    let oracle = world::run(plan).verdict.err()?.oracle;
    let mut search = Search { oracle, runs: 1 };
    let mut best = plan.clone();
    loop {
        let before = size(&best);
        best = search.fewer(best, |plan| &mut plan.faults);
        best = search.fewer(best, |plan| &mut plan.clients);
        best = search.fewer(best, |plan| &mut plan.publishes);
        for client in 0..best.clients.len() {
            best = search.fewer(best, |plan| &mut plan.clients[client].steps);
        }
        best = search.fewer_instances(best);
        best = search.plainer(best);
        if size(&best) >= before {
            return Some((best, search.runs));
        }
    }
}

/// What a plan has of everything, counted.
pub fn size(plan: &Plan) -> usize {
    let steps: usize = plan.clients.iter().map(|client| client.steps.len()).sum();
    let usual = serde_json::to_value(Knobs::usual()).expect("knobs are plain data");
    let knobs = serde_json::to_value(&plan.knobs).expect("knobs are plain data");
    let odd = knobs.as_object().map_or(0, |knobs| {
        knobs.iter().filter(|(name, value)| usual.get(name.as_str()) != Some(*value)).count()
    });
    plan.instances.len()
        + plan.clients.len()
        + steps
        + plan.publishes.len()
        + plan.faults.len()
        + odd
}

struct Search {
    oracle: &'static str,
    runs: u32,
}

impl Search {
    fn fails(&mut self, plan: &Plan) -> bool {
        self.runs += 1;
        world::run(plan).verdict.is_err_and(|failure| failure.oracle == self.oracle)
    }

    /// Leaves out ever smaller pieces of one list (delta debugging).
    fn fewer<T: Clone>(&mut self, mut best: Plan, list: impl Fn(&mut Plan) -> &mut Vec<T>) -> Plan {
        let mut piece = list(&mut best).len();
        while piece > 0 {
            let mut from = 0;
            while from < list(&mut best).len() {
                let mut tried = best.clone();
                let items = list(&mut tried);
                let to = (from + piece).min(items.len());
                items.drain(from..to);
                if self.fails(&tried) {
                    best = tried;
                } else {
                    from += piece;
                }
            }
            piece /= 2;
        }
        best
    }

    fn fewer_instances(&mut self, mut best: Plan) -> Plan {
        while best.instances.len() > 1 {
            let mut tried = best.clone();
            tried.instances.pop();
            let left = tried.instances.len();
            tried.faults.iter_mut().for_each(|fault| fault.instance %= left);
            if !self.fails(&tried) {
                break;
            }
            best = tried;
        }
        best
    }

    /// Sets each knob to its usual value.
    fn plainer(&mut self, mut best: Plan) -> Plan {
        let usual = serde_json::to_value(Knobs::usual()).expect("knobs are plain data");
        let usual = usual.as_object().expect("knobs are an object");
        for (name, value) in usual {
            let mut knobs = serde_json::to_value(&best.knobs).expect("knobs are plain data");
            knobs[name] = value.clone();
            let mut tried = best.clone();
            tried.knobs = serde_json::from_value(knobs).expect("only a value was changed");
            if tried != best && self.fails(&tried) {
                best = tried;
            }
        }
        best
    }
}
