//! Reads that one request does not do for: which they are, what they tell, and what is logged of it, once per change.

use std::time::Duration;

use tokio::time::Instant;

use super::{DueEntry, ModbusDriver};
use crate::drivers::bans::{Ban, Bans};
use crate::drivers::modbus::fetch::{self, Fetched, is_refusal};
use crate::drivers::modbus::plan::{Block, Exchange};
use crate::drivers::modbus::quarantine::{Layout, News};
use crate::drivers::modbus::transport::Open;
use crate::drivers::schedule::Entry;
use crate::model::value::{Cause, Raw};

/// Blocks that one log line names at most.
const MOST_NAMED: usize = 8;

/// How a read is fetched at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The requests that it has come to.
    pub requests: Vec<Block>,
    /// What the device refuses, with the exception code.
    pub refused: Vec<(Block, u8)>,
    /// Holes that are not read over, since the device answers wrongly behind them.
    pub barred: Vec<Block>,
    /// Is nothing left to find out?
    pub is_settled: bool,
}

impl<O: Open> ModbusDriver<O> {
    /// With what was found out about its devices earlier.
    pub fn with_bans(mut self, bans: Bans) -> Self {
        self.bans = bans;
        self.layouts = (0..self.devices.len()).map(|device| self.layouts_of(device)).collect();
        self
    }

    /// How the reads of a device begin to be fetched.
    pub(super) fn layouts_of(&self, device: usize) -> Vec<Option<Box<Layout>>> {
        let layout = |exchange| self.layout(device, exchange).filter(|layout| !layout.is_whole());
        self.exchanges[device].iter().map(layout).collect()
    }

    fn layout(&self, device: usize, exchange: &Exchange) -> Option<Box<Layout>> {
        if exchange.atoms.is_empty() || exchange.blocks.len() != 1 {
            return None;
        }
        let max_gap = self.devices[device].device.limits.max_gap;
        Some(Box::new(Layout::new(&exchange.atoms, max_gap, |hole| self.bans.has(&self.ban(device, hole)))))
    }

    fn ban(&self, device: usize, hole: Block) -> Ban {
        let Block { table, address, count } = hole;
        Ban {
            link: self.config.link.to_string(),
            unit: self.devices[device].device.unit,
            table,
            address,
            count,
        }
    }

    /// How a read is fetched at present.
    pub fn standing(&self, device: usize, read: usize) -> Standing {
        match &self.layouts[device][read] {
            None => Standing {
                requests: self.exchanges[device][read].blocks.clone(),
                is_settled: true,
                ..Standing::default()
            },
            Some(layout) => Standing {
                requests: layout.requests(),
                refused: layout.refusals_known(),
                barred: layout.barred(),
                is_settled: layout.is_settled(),
            },
        }
    }

    /// Does the planned request do for this read?
    pub(super) fn is_plain(&self, device: usize, read: usize) -> bool {
        self.layouts[device][read].as_ref().is_none_or(|layout| layout.is_whole())
    }

    /// A planned request was refused: are there parts of it to ask for?
    pub(super) fn can_divide(&self, device: usize, read: usize, result: Result<(), Cause>) -> bool {
        result.is_err_and(is_refusal) && self.exchanges[device][read].atoms.len() > 1
    }

    /// From here on the read has a layout.
    pub(super) fn make_layout(&mut self, device: usize, read: usize) {
        if self.layouts[device][read].is_none() {
            self.layouts[device][read] = self.layout(device, &self.exchanges[device][read]);
        }
    }

    /// A planned request was refused while others were in flight: the read's next round goes on with its parts.
    pub(super) fn whole_refused(&mut self, device: usize, read: usize, result: Result<(), Cause>) {
        self.make_layout(device, read);
        if let (Some(layout), Err(Cause::Exception(code))) = (&mut self.layouts[device][read], result) {
            layout.whole_refused(code, Duration::ZERO);
            self.devices[device].metrics.refused_with(code);
        }
    }

    /// The link is a fresh one.
    pub(super) fn ask_again_for_the_refused(&mut self) {
        let now = Instant::now();
        self.layouts.iter_mut().flatten().flatten().for_each(|layout| layout.reconnected(now));
    }

    /// Is a read that is read once not over yet?
    pub(super) fn is_unfinished(&self, due: DueEntry) -> bool {
        let Entry { device, read, .. } = self.schedule.entry(due.entry);
        self.layouts[device][read].as_ref().is_some_and(|layout| layout.has_suspects())
    }

    /// The readings of a read that was answered.
    pub(super) fn readings(&self, device: usize, read: usize, fetched: &Fetched) -> Vec<Result<Raw, Cause>> {
        let exchange = &self.exchanges[device][read];
        match &self.layouts[device][read] {
            Some(layout) if fetched.is_round => fetch::round_readings(exchange, layout, &self.data),
            _ => fetch::readings(exchange, &self.data, fetched.torn),
        }
    }

    /// Counts and logs what a round has found out.
    pub(super) fn note_layout(&mut self, device: usize, read: usize) {
        let Some(layout) = &mut self.layouts[device][read] else { return };
        let metrics = &self.devices[device].metrics;
        metrics.exceptions.add(layout.refusals());
        let news = layout.take_news();
        if news.is_empty() {
            return;
        }
        let count = self.layouts[device].iter().flatten().map(|layout| layout.refused() as u64).sum();
        metrics.quarantined.set(count);
        let name = &self.devices[device].device.name;
        let named = |pick: fn(&News) -> Option<Block>| {
            let all: Vec<Block> = news.iter().filter_map(pick).collect();
            (!all.is_empty()).then(|| names(&all))
        };
        if let Some(addresses) =
            named(|news| if let News::Refused(block, _) = news { Some(*block) } else { None })
        {
            let cause = news
                .iter()
                .find_map(|news| if let News::Refused(_, code) = news { Some(*code) } else { None });
            let exception = cause.unwrap_or_default();
            tracing::warn!(device = %name, addresses, exception, "the device refuses addresses: their values are bad, the others are read around them");
        }
        if let Some(addresses) =
            named(|news| if let News::Answers(block) = news { Some(*block) } else { None })
        {
            tracing::info!(device = %name, addresses, "the device answers addresses again that it refused");
        }
        for news in &news {
            match news {
                News::Shifts(hole, found) => self.note_shift(device, *hole, found),
                News::Apart(address) => {
                    tracing::info!(device = %self.devices[device].device.name, at = address, "a read is divided here: the device refuses it as a whole");
                }
                News::Proven(block) => {
                    tracing::debug!(device = %self.devices[device].device.name, addresses = names(&[*block]), "merged over holes, and compared");
                }
                News::Refused(..) | News::Answers(_) => {}
            }
        }
    }

    fn note_shift(&mut self, device: usize, hole: Block, found: &crate::drivers::modbus::proof::Mismatch) {
        let ban = self.ban(device, hole);
        let remembered = self.bans.add(ban);
        tracing::warn!(
            device = %self.devices[device].device.name,
            hole = names(&[hole]),
            at = found.address,
            alone = found.alone,
            merged = found.merged,
            remembered,
            "the device answers wrongly over a hole: it is not read over any more"
        );
    }
}

/// `holding 10–11, holding 30`
pub fn names(blocks: &[Block]) -> String {
    let name = |block: &Block| match block.count {
        1 => format!("{} {}", block.table.key(), block.address),
        _ => format!("{} {}–{}", block.table.key(), block.address, block.end().saturating_sub(1)),
    };
    let mut named: Vec<String> = blocks.iter().take(MOST_NAMED).map(name).collect();
    if blocks.len() > MOST_NAMED {
        named.push(format!("and {} more", blocks.len() - MOST_NAMED));
    }
    named.join(", ")
}
