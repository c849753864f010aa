import { Marked } from 'marked';

const reader = new Marked({ gfm: true, breaks: true, async: false });

/** `text` cut between its blocks, such as paragraphs, lists and tables. */
export function blocks(text: string): string[] {
  return reader.lexer(text).map(({ raw }) => raw);
}
