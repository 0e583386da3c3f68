// Vote: which of two pictures, without their names. The tally is seen between pairs only, so that it
// sways nobody.
function value() {
  return props.value && props.value.state
    ? props.value
    : { state: 'waiting', tallies: [], count: 0 };
}

function draw() {
  const now = value(),
    running = now.state === 'running',
    pair = now.pair,
    was = now.was;
  $('.go').hidden = running || now.state === 'asking';
  $('.halt').hidden = !running;
  lend();
  $('.csv').disabled = !now.count;
  $('.vote').hidden = !pair && !was && !now.count;
  $('.first').hidden = running || !$('.vote').hidden;
  $('.what').textContent = running
    ? 'Drawing a pair'
    : pair
      ? 'Names are hidden, sides are shuffled.'
      : now.count
        ? now.count + (now.count === 1 ? ' pair answered.' : ' pairs answered.')
        : 'Two pictures of one seed, names hidden, sides shuffled, on the examples of this model.';
  deliver(now.file);
  const shown = pair ? pair.pictures : was || [];
  every('.two img').forEach((image, i) => {
    if (shown[i]) image.src = shown[i];
    else image.removeAttribute('src');
  });
  every('.two .tag').forEach((tag, i) => {
    tag.textContent = was && now.names ? now.names[i] : i ? 'Right' : 'Left';
  });
  $('.two').hidden = !shown.length;
  $('.answers').hidden = !pair;
  drawQuestion(now, pair);
  drawTally(now);
}

// Words and seed of the page, which the examples of a model leave aside, give way to a sentence.
const LEFT_ASIDE = ['#prompt', '#negative', '#seed', '#dice', '#lock'];
function drawExamples() {
  const instead = visible() && !!window.nagExamples;
  const words = document.querySelector('#prompt');
  if (!words || (!instead && !document.querySelector('#examples'))) return;
  const note = document.querySelector('#examples') || make('p');
  note.id = 'examples';
  note.textContent = 'Examples of this model, with a seed of their own';
  Object.assign(note.style, { gridColumn: '1 / 3', margin: 'auto 0' }); // both fields' places
  if (!note.parentNode) words.before(note);
  note.style.display = instead ? '' : 'none';
  for (const one of LEFT_ASIDE) {
    const node = document.querySelector(one);
    if (!node) continue;
    // the dock keeps its places, the words give theirs to the sentence
    const way = ['#prompt', '#negative'].includes(one) ? 'display' : 'visibility';
    const off = way === 'display' ? 'none' : 'hidden';
    if (instead) node.style.setProperty(way, off, 'important');
    else node.style.removeProperty(way);
  }
}
new IntersectionObserver(drawExamples).observe(element);
addEventListener('nag-settings', () => setTimeout(drawExamples)); // another model, maybe

function drawQuestion(now, pair) {
  const ask = $('.ask');
  ask.replaceChildren();
  if (!pair) {
    ask.textContent = now.names
      ? 'Left was ' + now.names[0] + ', right was ' + now.names[1] + '.'
      : '';
    return;
  }
  if (pair.asked === 'looks') {
    ask.textContent = 'Which one looks better?';
    return;
  }
  ask.append('Which one follows “' + pair.prompt + '”');
  if (pair.negative_prompt) {
    make('span', '', ask, ', without');
    ask.append(' ' + pair.negative_prompt);
  }
  ask.append('?');
}

function drawTally(now) {
  const node = $('.tally');
  node.replaceChildren();
  if (value().state === 'asking') {
    make('p', 'note', node, 'The votes so far are shown when this pair is answered.');
    return;
  }
  for (const one of now.tallies) {
    const votes = one.wins + one.losses + one.draws;
    if (!votes) continue;
    const part = make('div', '', node);
    make('p', 'lead', part, one.question[0].toUpperCase() + one.question.slice(1));
    const list = make('div', 'count3', part);
    for (const [label, count, kind] of [
      [one.name, one.wins, 'n'],
      ['The other', one.losses, ''],
      ['Neither', one.draws, ''],
    ]) {
      make('span', '', list, label);
      make('i', kind, list).style.setProperty('--v', count / votes);
      make('span', '', list, count);
    }
    const decided = one.wins + one.losses;
    if (one.interval)
      make(
        'p',
        'note',
        part,
        one.name +
          ' in ' +
          one.wins +
          ' of ' +
          decided +
          ' decided; 95 %: ' +
          one.interval.map(x => Math.round(100 * x)).join(' to ') +
          ' of 100',
      );
    make(
      'p',
      'note',
      part,
      'The paper’s score (wins − losses) / votes: ' +
        (one.score > 0 ? '+' : '') +
        one.score.toFixed(2),
    );
  }
  make(
    'p',
    'note',
    node,
    now.kept ? 'Votes are kept in a file of this server’s owner.' : 'Votes stay in this visit.',
  );
}

function answer(choice) {
  if (value().state === 'asking') trigger('input', { choice });
}

every('.answer').forEach(button =>
  button.addEventListener('click', () => answer(button.dataset.choice)),
);
$('.go').addEventListener('click', () => trigger('submit', {}));
$('.halt').addEventListener('click', () => trigger('stop', {}));
$('.csv').addEventListener('click', () => trigger('download', {}));
document.addEventListener('keydown', event => {
  if (
    !element.isConnected ||
    !visible() ||
    event.repeat || // a key that is held is one answer, not one to each question
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    event.target.closest('input, textarea, select')
  )
    return;
  const choice = { 1: 'left', 2: 'right', 0: 'tie', 9: 'neither' }[event.key];
  if (choice) {
    event.preventDefault();
    answer(choice);
  }
});
watch('value', draw);
draw();
