/**
 * Words and phrases as the nodes' text inputs have them. Pure: knows no page and no graph.
 * @typedef {{text: string, start: number, end: number, name: string}} Word
 */

const PIECE = /[\p{L}\p{N}\p{M}]+(?:['’-][\p{L}\p{N}\p{M}]+)*|[^\p{L}\p{N}\p{M}_\s]+|_+/gu

/**
 * Split a text into its words and runs of punctuation, as the server does.
 * @param {string} text
 * @returns {string[]}
 */
export const pieces = (text) => (text.toLowerCase().match(PIECE) ?? [])

/**
 * Read words and phrases, separated by commas or line ends.
 * @param {string} text
 * @returns {string[]}
 */
export const parts = (text) => text.split(/[,\n]/).map((part) => part.trim()).filter(Boolean)

/**
 * Take the factor off a part of a list: "tail: -1" is of "tail".
 * @param {string} part
 */
export const phraseOf = (part) => part.replace(/\s*[:=][^:=]*$/, '').trim()

/**
 * Find the words that a phrase means: all that spell it, or of "cat #2" the second.
 * @param {Word[]} words
 * @param {string} phrase
 * @param {number} [occurrence] which one is meant, from 1; left out, all of them
 * @returns {Set<number>} their indices
 */
export function meant(words, phrase, occurrence) {
  const owners = words.flatMap((word, n) => pieces(word.text).map((piece) => [piece, n]))
  const find = (/** @type {string[]} */ wanted) =>
    owners.flatMap((_, at) =>
      wanted.length && wanted.every((piece, n) => owners[at + n]?.[0] === piece)
        ? [new Set(wanted.map((__, n) => Number(owners[at + n][1])))]
        : [])
  const numbered = /^(.*\S)\s*#\s*(\d+)$/s.exec(phrase)
  let found = find(pieces(phrase))
  if (!found.length && numbered) {
    found = find(pieces(numbered[1]))
    occurrence = Number(numbered[2])
  }
  if (occurrence) found = found.slice(occurrence - 1, occurrence)
  return new Set(found.flatMap((one) => [...one]))
}

/**
 * Put a word into a list of words, or take it out where it is.
 * @param {string} list as the input has it, factors included
 * @param {Word[]} words those of the prompt
 * @param {number} index which of them
 * @returns {string} the list afterwards
 */
export function toggled(list, words, index) {
  const all = parts(list)
  const left = all.filter((part) => {
    const own = meant(words, phraseOf(part))
    return !(own.size === 1 && own.has(index))
  })
  if (left.length < all.length) return left.join(', ')
  return [...all, words[index].name].join(', ')
}

/**
 * Take a stretch out of a text, with one of the spaces around it.
 * @param {string} text
 * @param {number} start
 * @param {number} end
 */
export function without(text, start, end) {
  const before = text.slice(0, start)
  const after = text.slice(end)
  return /\s$/.test(before) ? before.slice(0, -1) + after : before + after.replace(/^\s/, '')
}

/**
 * Write a word into a text behind a place, set apart by a space.
 * @param {string} text
 * @param {number} at
 * @param {string} word
 */
export function withWord(text, at, word) {
  const before = text.slice(0, at)
  const after = text.slice(at)
  return before + (/\S$/.test(before) ? ' ' : '') + word
    + (/^[\p{L}\p{N}]/u.test(after) ? ' ' : '') + after
}

/**
 * Read a list of words with their factors.
 * @param {string} list
 * @param {number} factor of those that have none of their own
 * @returns {[string, number][]}
 */
export const factorsOf = (list, factor) => parts(list).map((part) => {
  const value = /[:=]\s*([^:=]*)$/.exec(part)
  return [phraseOf(part), value ? Number(value[1]) : factor]
})

/**
 * Give one word of a list another factor.
 * @param {string} list
 * @param {number} index
 * @param {number} factor
 */
export const withFactor = (list, index, factor) => parts(list)
  .map((part, n) => (n === index ? `${phraseOf(part)}: ${factor}` : part)).join(', ')
