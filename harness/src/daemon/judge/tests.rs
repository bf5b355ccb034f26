//! What the judge says of stories made up for it.
