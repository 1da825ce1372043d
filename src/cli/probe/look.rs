//! Reads registers and their neighbours, around holes too: a refused block is halved until the refused addresses are
//! known. Polite: one request at a time, and a bounded number of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::guess::Words;
use crate::drivers::LinkLost;
use crate::drivers::modbus::client::Client;
use crate::drivers::modbus::exchange::Reply;
use crate::drivers::modbus::plan::Block;
use crate::drivers::modbus::transport::Open;
use crate::model::place::Table;
use crate::model::value::Cause;

/// The most requests of one look; what is not known by then stays unknown.
const MOST_REQUESTS: u32 = 64;

/// So many addresses in a row that get no answer at all end the look.
const MOST_SILENT: u32 = 3;

/// Illegal function, gateway path unavailable, gateway target failed to respond (Modbus Application Protocol V1.1b3,
/// section 7): they say nothing about addresses.
const NOT_ABOUT_ADDRESSES: [u8; 3] = [0x01, 0x0A, 0x0B];

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Registers, or bits as 0 and 1.
    pub words: Words,
    /// Addresses that gave nothing, and why.
    pub refused: BTreeMap<u16, Cause>,
    /// How many requests that took.
    pub requests: u32,
    /// The longest of them that was answered.
    pub slowest: Duration,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum Blind {
    /// No link, or it was lost.
    #[error("{0}")]
    Link(#[from] LinkLost),
    /// The unit does not answer.
    #[error("unit {unit} {what}")]
    Unit {
        /// Whom.
        unit: u8,
        /// What it does instead.
        what: String,
    },
}

/// Looks at a block of a unit; `asked` is the address that matters most.
pub async fn look<O: Open>(
    client: &mut Client<O>,
    unit: u8,
    block: Block,
    asked: u16,
    timeout: Option<Duration>,
) -> Result<Seen, Blind>
where
    O::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let mut look = Look { client, unit, table: block.table, timeout, seen: Seen::default(), silent: 0 };
    look.first(block, asked).await?;
    let addresses: Vec<u16> = look.seen.refused.keys().copied().collect();
    for address in addresses {
        look.whole_value(address).await?;
    }
    Ok(look.seen)
}

struct Look<'c, O: Open> {
    client: &'c mut Client<O>,
    unit: u8,
    table: Table,
    timeout: Option<Duration>,
    seen: Seen,
    silent: u32,
}

impl<O: Open> Look<'_, O> {
    /// The whole block; what is refused is halved.
    async fn first(&mut self, block: Block, asked: u16) -> Result<(), Blind> {
        let mut cause = self.ask(block).await?;
        // The first request after a rest is lost by some devices (QUIRKS 12), and some are silent where they should refuse.
        if cause == Some(Cause::Timeout) {
            cause = self.ask(block).await?;
        }
        match cause {
            None => return Ok(()),
            Some(Cause::Exception(code)) if !NOT_ABOUT_ADDRESSES.contains(&code) => {}
            Some(Cause::Timeout | Cause::Garbled) => {
                let single = Block { address: asked, count: 1, ..block };
                let alone = self.ask(single).await?;
                if matches!(alone, Some(Cause::Timeout | Cause::Garbled)) {
                    return Err(self.blind(alone));
                }
            }
            cause => return Err(self.blind(cause)),
        }
        self.halves(block).await
    }

    async fn halves(&mut self, block: Block) -> Result<(), Blind> {
        let mut parts = split(block);
        while let Some(part) = parts.pop() {
            if self.seen.requests >= MOST_REQUESTS || self.silent >= MOST_SILENT {
                break;
            }
            match self.ask(part).await? {
                None => {}
                Some(cause) if part.count == 1 => {
                    self.silent = if cause == Cause::Timeout { self.silent + 1 } else { 0 };
                    self.seen.refused.insert(part.address, cause);
                }
                Some(_) => parts.extend(split(part)),
            }
        }
        Ok(())
    }

    /// Some devices refuse to be read within a value: two or four registers from here may be one (QUIRKS 8).
    async fn whole_value(&mut self, address: u16) -> Result<(), Blind> {
        if self.table.is_bits() {
            return Ok(());
        }
        for count in [2, 4] {
            let refused = |offset: u16| {
                address.checked_add(offset).is_some_and(|next| self.seen.refused.contains_key(&next))
            };
            let fits = (0..count).all(refused);
            if !fits || self.seen.requests >= MOST_REQUESTS || self.silent >= MOST_SILENT {
                return Ok(());
            }
            if self.ask(Block { table: self.table, address, count }).await?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One request. `None`: what it carries has been noted.
    async fn ask(&mut self, block: Block) -> Result<Option<Cause>, Blind> {
        self.seen.requests += 1;
        let answer = self.client.ask(self.unit, block, self.timeout).await?;
        match answer.reply {
            Reply::Data => {
                self.seen.slowest = self.seen.slowest.max(answer.took);
                self.note(block, &answer.data);
                Ok(None)
            }
            Reply::Exception(code) => Ok(Some(Cause::Exception(code))),
            Reply::Timeout => Ok(Some(Cause::Timeout)),
            Reply::Garbled | Reply::Damaged => Ok(Some(Cause::Garbled)),
        }
    }

    fn note(&mut self, block: Block, data: &[u8]) {
        for (offset, address) in (0..block.count).zip(block.address..) {
            let at = usize::from(offset);
            let word = match block.table.is_bits() {
                true => data.get(at / 8).map(|byte| u16::from(byte >> (at % 8) & 1)),
                false => data.get(at * 2..at * 2 + 2).map(|word| u16::from_be_bytes([word[0], word[1]])),
            };
            if let Some(word) = word {
                self.seen.words.insert(address, word);
                self.seen.refused.remove(&address);
            }
        }
    }

    fn blind(&self, cause: Option<Cause>) -> Blind {
        let what = match cause {
            Some(Cause::Exception(1)) => {
                let others: &str = match self.table {
                    Table::Input => "; try holding",
                    Table::Holding => "; try input",
                    _ => "",
                };
                let table = self.table.key();
                format!(
                    "does not have function code {}, which reads {table} (exception 1){others}",
                    self.table.read_function()
                )
            }
            Some(Cause::Exception(code @ (0x0A | 0x0B))) => {
                format!("is not there: the gateway in between says {}", Cause::Exception(code))
            }
            Some(Cause::Timeout) | None => "does not answer".into(),
            Some(Cause::Garbled) => {
                "answers, but not with Modbus that fits: noise, or wrong line settings?".into()
            }
            Some(cause) => format!("refuses: {cause}"),
        };
        Blind::Unit { unit: self.unit, what }
    }
}

/// Both halves, the front one last: it is asked first.
fn split(block: Block) -> Vec<Block> {
    if block.count < 2 {
        return vec![block];
    }
    let half = block.count / 2;
    let back = Block { address: block.address + half, count: block.count - half, ..block };
    vec![back, Block { count: half, ..block }]
}
