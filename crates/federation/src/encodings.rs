//! Encode once, share the bytes.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use zonal_model::{Key, Resource};

use crate::border::{Border, Offered};
use crate::shape::Shape;
use crate::wire::{self, EncodeError};

type Encoded = Result<Offered, Arc<EncodeError>>;

#[derive(Debug)]
struct Kept {
    revision: u64,
    shapes: SmallVec<[(Shape, Encoded); 1]>,
}

/// The encoded forms of resources, shared by everybody who offers them: one resource of one revision is written once
/// for each shape in which peers see it.
#[derive(Debug, Default)]
pub struct Encodings {
    border: Border,
    kept: Mutex<FxHashMap<Key, Kept>>,
}

impl Encodings {
    /// No encoding yet.
    #[must_use]
    pub fn new(border: Border) -> Self {
        Self {
            border,
            kept: Mutex::default(),
        }
    }

    /// The border whose shapes are kept.
    #[must_use]
    pub const fn border(&self) -> &Border {
        &self.border
    }

    /// The form of a resource at a revision. The caller has asked the border whether it crosses.
    ///
    /// # Errors
    /// It cannot be written; the same error for everybody who asks.
    pub fn encoded(
        &self,
        resource: &Resource,
        revision: u64,
        shape: &Shape,
    ) -> Result<Offered, Arc<EncodeError>> {
        if let Some(kept) = self.kept.lock().get(&resource.key)
            && kept.revision == revision
            && let Some((_, encoded)) = kept.shapes.iter().find(|(s, _)| s == shape)
        {
            return encoded.clone();
        }
        let encoded: Encoded = shape
            .apply(resource, &self.border.skip_prefixes)
            .and_then(|shaped| wire::encode(&shaped))
            .map_err(Arc::new);
        let mut kept = self.kept.lock();
        let entry = kept.entry(resource.key.clone()).or_insert_with(|| Kept {
            revision,
            shapes: SmallVec::new(),
        });
        if entry.revision < revision {
            entry.revision = revision;
            entry.shapes.clear();
        }
        if entry.revision == revision && !entry.shapes.iter().any(|(s, _)| s == shape) {
            entry.shapes.push((shape.clone(), encoded.clone()));
        }
        encoded
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, key: &Key) {
        self.kept.lock().remove(key);
    }

    /// How many resources have a form kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.lock().len()
    }

    /// Whether no form is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
