// What differs: the settings of two columns, or of two runs of the visit, and what came of them.
const PLAIN = { nag_normalisation: true, nag_refinement: true, nag_end: 1 };
const TOLD = Object.keys(MADE_OF).slice(0, 9);
const compared = { a: '', b: '' };

// Columns, then runs: {key, label, made, cell}. A run is seen by its column with NAG.
function comparable() {
  const shown = columns()
    .filter(cell => cell.made)
    .map(cell => ({ key: cell.key, label: nameIn(cell), made: cell.made, cell }));
  const runs = past.map((one, i) => {
    const done = one.value.cells.filter(cell => cell.state === 'done');
    const cell = done.find(cell => cell.key === 'nag') || done[done.length - 1];
    const label = 'Run ' + (past.length - i) + ': ' + one.label;
    return { key: 'run ' + one.run, label, made: used(one.value.request), cell };
  });
  return [...shown, ...runs];
}

function written(value) {
  if (value === undefined) return 'not used';
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  return Array.isArray(value) ? value.map(key => METHODS[key] || key).join(', ') : String(value);
}

// [name, of a, of b] of what differs, and the names of what matters and is the same.
function differences(a, b) {
  const rows = [];
  const alike = [];
  for (const [name, [word]] of Object.entries(MADE_OF)) {
    const [one, two] = [a.made[name], b.made[name]];
    const known = one === undefined ? two : one;
    if (known === undefined) continue;
    if (same(one, two)) {
      if (TOLD.includes(name)) alike.push(word);
    } else if (one !== undefined && two !== undefined)
      rows.push([word, written(one), written(two)]);
    else if (PLAIN[name] !== known && name !== 'guidance')
      rows.push([word, written(one), written(two)]);
  }
  return { rows, alike };
}

function outcomes(a, b) {
  const of = cell => Object.fromEntries((cell.meters || []).map(row => [row.name, row.text]));
  const [one, two] = [of(a.cell), of(b.cell)];
  const rows = [...new Set([...Object.keys(one), ...Object.keys(two)])].map(name => [
    'Shows ' + name,
    one[name] || 'not asked',
    two[name] || 'not asked',
  ]);
  const cost = cell => (cell.cost ? cell.cost.text + ' ' + cell.cost.unit : 'not known');
  if (cost(a.cell) !== cost(b.cell)) rows.push(['Cost', cost(a.cell), cost(b.cell)]);
  const held = cell => cell.peak || 'not measured';
  if (held(a.cell) !== held(b.cell)) rows.push(['GPU memory', held(a.cell), held(b.cell)]);
  return rows;
}

// Words that the other text lacks stand out.
function writeWords(node, text, other) {
  const there = new Set(other.toLowerCase().match(/[\p{L}\p{N}]+/gu) || []);
  for (const part of text.split(/([\p{L}\p{N}]+)/u)) {
    const word = /[\p{L}\p{N}]/u.test(part);
    if (word && !there.has(part.toLowerCase())) make('mark', '', node, part);
    else node.append(part);
  }
}

function drawDiffer() {
  const menu = $('#differ-menu');
  const all = comparable();
  menu.replaceChildren();
  make('h2', '', menu, 'What differs');
  if (all.length < 2) {
    make('p', '', menu, 'There is one picture so far: compare, and there are more.');
    return;
  }
  const find = (key, otherwise) => all.find(one => one.key === key) || otherwise;
  const a = find(compared.a, all[0]);
  const b = find(compared.b, all[all.length - 1]);
  const table = make('table', '', menu);
  const head = make('tr', '', make('thead', '', table));
  make('td', '', head);
  for (const [side, chosen] of [
    ['a', a],
    ['b', b],
  ]) {
    const select = make('select', 'select', make('th', '', head));
    select.setAttribute(
      'aria-label',
      side === 'a' ? 'First picture or run' : 'Second picture or run',
    );
    all.forEach(one => {
      make('option', '', select, one.label).value = one.key;
    });
    select.value = chosen.key;
    select.addEventListener('change', () => {
      compared[side] = select.value;
      drawDiffer();
      $('#differ-menu select[aria-label^="' + (side === 'a' ? 'First' : 'Second') + '"]').focus();
    });
  }
  const { rows, alike } = differences(a, b);
  const body = make('tbody', '', table);
  for (const [name, one, two] of rows) drawRow(body, name, one, two, /prompt/i.test(name));
  if (!rows.length) make('p', '', menu, 'These have the same settings.');
  for (const [name, one, two] of outcomes(a, b)) drawRow(body, name, one, two, false);
  if (alike.length) make('p', 'alike', menu, 'The same in both: ' + alike.join(', ') + '.');
  drawDistance(make('p', 'alike', menu), a.cell, b.cell);
}

function drawRow(body, name, one, two, words) {
  const row = make('tr', '', body);
  make('th', '', row, name).scope = 'row';
  const cells = [make('td', '', row), make('td', '', row)];
  cells.forEach((cell, i) => {
    const [own, other] = i ? [two, one] : [one, two];
    if (words) writeWords(cell, own, other);
    else cell.textContent = own;
    cell.classList.toggle('none', own === 'not used');
  });
}

async function drawDistance(node, a, b) {
  const mean = await meanDifference(source(a), source(b));
  if (mean !== null)
    node.textContent = 'The pictures differ by ' + mean.toFixed(1) + ' of 255 on average.';
  placeMenu($('#differ-menu'));
}

function openDiffer(button) {
  const all = comparable();
  const keys = all.map(one => one.key);
  if (view.name !== 'side' && keys.includes(view.a)) [compared.a, compared.b] = [view.a, view.b];
  else if (past.length > 1) [compared.a, compared.b] = ['run ' + past[1].run, 'run ' + past[0].run];
  else
    [compared.a, compared.b] = [
      keys.includes('cfg') ? 'cfg' : keys[0],
      keys.includes('nag') ? 'nag' : '',
    ];
  drawDiffer();
  openMenu($('#differ-menu'), button);
}
$('.differ').addEventListener('click', event => openDiffer(event.currentTarget));
