//! Tests over the shared heads, and properties over generated ones.
