//! POLICY -> NFT. Annotations to maps, chains and the few rules that use them.
