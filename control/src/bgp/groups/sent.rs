//! What a group of peers was told about each prefix: its Adj-RIB-Out.
//!
//! Pieces come into being when something in them is told, so a group that is told nothing costs nothing.

use std::sync::Arc;

use smallvec::SmallVec;

use super::super::attribute::Attributes;
use super::super::rib::path::PeerIndex;
use super::super::rib::table::{PIECE, PrefixIndex};

/// A path that was told.
#[derive(Debug, Clone)]
pub struct SentPath {
    pub attributes: Arc<Attributes>,
    /// Told to all but this one.
    pub source: PeerIndex,
    /// Our number for it; 0 to peers that take one path only.
    pub number: u16,
}

impl PartialEq for SentPath {
    fn eq(&self, other: &SentPath) -> bool {
        // Attributes are in the store: equal ones are the same.
        Arc::ptr_eq(&self.attributes, &other.attributes) && (self.source, self.number) == (other.source, other.number)
    }
}

pub type SentPaths = SmallVec<[SentPath; 1]>;

#[derive(Debug, Default)]
pub struct Sent {
    pieces: Vec<Option<Box<[SentPaths]>>>,
}

impl Sent {
    pub fn get(&self, place: PrefixIndex) -> &[SentPath] {
        let piece = self.pieces.get(place.index() / PIECE).and_then(Option::as_ref);
        piece.map_or(&[], |piece| &piece[place.index() % PIECE])
    }

    pub fn set(&mut self, place: PrefixIndex, paths: SentPaths) {
        let piece = place.index() / PIECE;
        if self.pieces.len() <= piece {
            if paths.is_empty() {
                return;
            }
            self.pieces.resize_with(piece + 1, || None);
        }
        if paths.is_empty() && self.pieces[piece].is_none() {
            return;
        }
        let empty = || std::iter::repeat_with(SentPaths::new).take(PIECE).collect();
        self.pieces[piece].get_or_insert_with(empty)[place.index() % PIECE] = paths;
    }

    /// Places that something was told about.
    pub fn places(&self) -> impl Iterator<Item = PrefixIndex> {
        let pieces = self.pieces.iter().enumerate().filter_map(|(at, piece)| Some((at, piece.as_ref()?)));
        pieces.flat_map(|(at, piece)| {
            let told = piece.iter().enumerate().filter(|(_, paths)| !paths.is_empty());
            told.map(move |(position, _)| PrefixIndex((at * PIECE + position) as u32))
        })
    }
}
