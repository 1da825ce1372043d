//! One unit: its registers, and what it answers to which request. Pure.
//!
//! It answers as its profile says that the device does:
//!
//! - exception 1 to a function code that is not among `functions`;
//! - exception 2 to addresses that no point, example or block has, unless they are a hole of at most `max_gap`; to those that
//!   the device refuses; and to a part of a fixed block;
//! - exception 3 to more than `max_registers` or `max_bits` at once;
//! - nothing to a request that comes before `delay_between_requests` is over.
//!
//! (Modbus Application Protocol V1.1b3, sections 6 and 7.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_modbus::prelude::{ExceptionCode, Request, Response};

use super::values::{self, Cell, Moving};
use crate::mapping::compiled::{DeviceMap, Source};
use crate::mapping::device::{Device, Limits};
use crate::model::place::Table;

/// What comes of a request: an answer, silence, or an exception.
pub type Answer = Result<Option<Response>, ExceptionCode>;

/// A unit behind a connection.
#[derive(Debug, Default)]
pub struct Unit {
    /// What its addresses hold.
    words: BTreeMap<Cell, u16>,
    moving: Vec<Moving>,
    writable: BTreeSet<Cell>,
    /// Written since the start: they don't move any more.
    written: BTreeSet<Cell>,
    limits: Limits,
    answered: Option<Duration>,
}

impl Unit {
    /// Adds a device's registers: those of its points, and those that its profile's examples have. Of several devices the
    /// limits of the last one hold.
    pub fn add(&mut self, device: &Device, example: Option<&BTreeMap<Cell, u16>>, still: bool) {
        self.words.extend(example.into_iter().flatten().map(|(cell, word)| (*cell, *word)));
        let moving = values::fill(&device.map, &mut self.words);
        if !still {
            self.moving.extend(moving);
        }
        let targets = device.map.writes.iter();
        self.writable.extend(targets.flat_map(|target| target.reading.place.cells()));
        for block in &device.limits.blocks {
            for address in (block.address..=u16::MAX).take(block.count.into()) {
                self.words.entry((block.table, address)).or_default();
            }
        }
        self.add_what_is_read_along(&device.map);
        self.limits = device.limits.clone();
    }

    /// What makes one value is read at once, with all that is in between.
    fn add_what_is_read_along(&mut self, map: &DeviceMap) {
        for point in &map.points {
            let Source::Reading(reading) = point.source else { continue };
            let scale = point.transform.scale_from.map(|scale| &map.points[scale.0 as usize].source);
            let scale = scale.and_then(|source| match source {
                Source::Reading(reading) => Some(*reading),
                Source::Sum(_) => None,
            });
            let parts = [Some(reading), scale].into_iter().flatten();
            let cells: Vec<Cell> = parts.flat_map(|ix| map.readings[ix.0 as usize].place.cells()).collect();
            let (Some(first), Some(last)) = (cells.iter().min(), cells.iter().max()) else { continue };
            if first.0 == last.0 && last.1 - first.1 < 125 {
                (first.1..last.1).for_each(|address| _ = self.words.entry((first.0, address)).or_default());
            }
        }
    }

    /// Answers a request, `now` after the start.
    pub fn answer(&mut self, request: &Request<'_>, now: Duration) -> Answer {
        let rest = self.limits.delay_between_requests;
        if self.answered.is_some_and(|answered| now < answered + rest) {
            return Ok(None);
        }
        self.answered = Some(now);
        let functions = self.limits.functions.as_deref();
        if functions
            .is_some_and(|known| is_read(request) && !known.contains(&request.function_code().value()))
        {
            return Err(ExceptionCode::IllegalFunction);
        }
        self.move_on(now);
        let answer = match request {
            Request::ReadCoils(at, count) => Response::ReadCoils(self.bits(Table::Coil, *at, *count)?),
            Request::ReadDiscreteInputs(at, count) => {
                Response::ReadDiscreteInputs(self.bits(Table::Discrete, *at, *count)?)
            }
            Request::ReadInputRegisters(at, count) => {
                Response::ReadInputRegisters(self.read(Table::Input, *at, *count)?)
            }
            Request::ReadHoldingRegisters(at, count) => {
                Response::ReadHoldingRegisters(self.read(Table::Holding, *at, *count)?)
            }
            Request::WriteSingleCoil(at, bit) => {
                self.write(Table::Coil, *at, &[u16::from(*bit)])?;
                Response::WriteSingleCoil(*at, *bit)
            }
            Request::WriteMultipleCoils(at, bits) => {
                let words: Vec<u16> = bits.iter().map(|bit| u16::from(*bit)).collect();
                self.write(Table::Coil, *at, &words)?;
                Response::WriteMultipleCoils(*at, words.len() as u16)
            }
            Request::WriteSingleRegister(at, word) => {
                self.write(Table::Holding, *at, &[*word])?;
                Response::WriteSingleRegister(*at, *word)
            }
            Request::WriteMultipleRegisters(at, words) => {
                self.write(Table::Holding, *at, words)?;
                Response::WriteMultipleRegisters(*at, words.len() as u16)
            }
            Request::MaskWriteRegister(at, and, or) => {
                let old = self.words.get(&(Table::Holding, *at)).copied().unwrap_or_default();
                self.write(Table::Holding, *at, &[(old & and) | (or & !and)])?;
                Response::MaskWriteRegister(*at, *and, *or)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        };
        Ok(Some(answer))
    }

    fn move_on(&mut self, now: Duration) {
        for moving in &self.moving {
            for (cell, word) in moving.at(now) {
                if !self.written.contains(&cell) {
                    self.words.insert(cell, word);
                }
            }
        }
    }

    fn bits(&self, table: Table, at: u16, count: u16) -> Result<Vec<bool>, ExceptionCode> {
        Ok(self.read(table, at, count)?.into_iter().map(|word| word != 0).collect())
    }

    fn read(&self, table: Table, at: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        if count == 0 || count > self.limits.max_count(table) {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let end = u32::from(at) + u32::from(count);
        let is_cut = |block: &crate::mapping::device::FixedBlock| {
            block.overlaps(table, at, count)
                && !(at <= block.address && u32::from(block.address) + u32::from(block.count) <= end)
        };
        if end > 0x1_0000
            || self.limits.refused_in(table, u32::from(at), end).is_some()
            || self.limits.blocks.iter().any(is_cut)
        {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        let addresses = at..=(end - 1) as u16;
        addresses.map(|address| self.word(table, address).ok_or(ExceptionCode::IllegalDataAddress)).collect()
    }

    /// What an address holds: 0 in a hole that may be read over.
    fn word(&self, table: Table, address: u16) -> Option<u16> {
        if let Some(word) = self.words.get(&(table, address)) {
            return Some(*word);
        }
        let (before, _) = self.words.range((table, 0)..(table, address)).next_back()?;
        let (behind, _) = self.words.range((table, address)..=(table, u16::MAX)).next()?;
        (behind.1 - before.1 - 1 <= self.limits.max_gap).then_some(0)
    }

    fn write(&mut self, table: Table, at: u16, words: &[u16]) -> Result<(), ExceptionCode> {
        let cells: Vec<Cell> = (at..=u16::MAX).take(words.len()).map(|address| (table, address)).collect();
        if cells.len() < words.len() || cells.iter().any(|cell| !self.writable.contains(cell)) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        self.words.extend(cells.iter().copied().zip(words.iter().copied()));
        self.written.extend(cells);
        Ok(())
    }
}

/// Is it one of the function codes that `functions` of a profile is about?
fn is_read(request: &Request<'_>) -> bool {
    (1..=4).contains(&request.function_code().value())
}
