import DOMPurify from 'dompurify';
import { Marked } from 'marked';
import { memo, useMemo } from 'react';

import { blocks } from './blocks';
import './markdown.css';

// what a model writes is hostile: of all HTML, only what Markdown itself can mean comes through
const TAGS = [
  'p', 'br', 'hr', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li', 'a',
  'h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td',
];
const ATTRIBUTES = ['href', 'title', 'start', 'align'];
const ADDRESSES = /^(?:https?:|mailto:)/i;
const ESCAPES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

const escaped = (text: string): string => text.replace(/[&<>"']/g, (sign) => ESCAPES[sign]!);

const reader = new Marked({
  gfm: true,
  breaks: true,
  async: false,
  renderer: {
    // shown as it was written: the reader sees what the model said
    html: ({ text }) => escaped(text),
    // nothing is fetched because a model says so
    image: ({ href, text }) => escaped(`![${text}](${href})`),
    // the page has its own headings above these
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    checkbox: ({ checked }) => (checked ? '[x] ' : '[ ] '),
  },
});

const purify = DOMPurify();
purify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'A' || !node.getAttribute('href')) return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
});

/** `text` as HTML that may be put into the page. */
export function safeHtml(text: string): string {
  return purify.sanitize(reader.parse(text) as string, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ADD_URI_SAFE_ATTR: ['start', 'align'],
    ALLOWED_URI_REGEXP: ADDRESSES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}

/** Text of a model, its Markdown shown. While it is `growing` only its last block is read anew, so that long answers
 * come smoothly and what was selected above stays so. The only place of the page that puts HTML into it. */
export const Markdown = memo(function Markdown({ text, growing = false }: { text: string; growing?: boolean }) {
  if (!growing) return <Block text={text} className="markdown" />;
  return <div className="markdown">{blocks(text).map((raw, at) => <Block key={at} text={raw} className="block" />)}</div>;
});

const Block = memo(function Block({ text, className }: { text: string; className: string }) {
  const html = useMemo(() => safeHtml(text), [text]);
  return <div className={className} dangerouslySetInnerHTML={{ __html: html }} />;
});
