/** A tree of strings by UTF-16 unit, for finding many fixed strings in one walk. */

export interface TrieNode<T> {
  readonly children: Map<number, TrieNode<T>>;
  /** Of the string that ends here. */
  value: T | null;
}

export function createTrie<T>(): TrieNode<T> {
  return { children: new Map(), value: null };
}

/** Of two equal strings the first keeps its value. */
export function insertIntoTrie<T>(root: TrieNode<T>, text: string, value: T): void {
  let node = root;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    let child = node.children.get(unit);
    if (child === undefined) node.children.set(unit, (child = createTrie()));
    node = child;
  }
  node.value ??= value;
}
